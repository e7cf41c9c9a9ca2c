"""Captions of the easy world read back as scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .vocabulary import BACKGROUNDS, COLORS, LAYOUTS, PATTERNS, SHAPES, SIZES, ObjectWords, Reading, read
from .world import PLACES, RADII, Item, Scene


def says_everything(prompt: str) -> bool:
    """Whether a caption leaves nothing of the objects and their places open, so that they have one true picture."""
    reading = read(prompt)
    described = all(item.size and item.color for item in reading.objects)
    placed = len(reading.objects) == 1 or reading.relation in (*_BESIDE, *_ABOVE)
    return bool(reading.objects) and described and placed and reading.background is not None


def scene_of(prompt: str, rng: np.random.Generator) -> Scene:
    """A scene of the easy world that a caption is true of; what it leaves unsaid is drawn at random."""
    reading = read(prompt)
    layout = _layout(reading, rng)
    objects = [*reading.objects] or [ObjectWords(drawn(SHAPES, rng))]
    if reading.relation in ("right", "below") or (_is_vague(reading) and rng.random() < 0.5):
        objects.reverse()
    places = PLACES[LAYOUTS[layout]]
    items = tuple(item_of(words, x, y, RADII, rng) for words, (x, y) in zip(objects, places, strict=True))
    background = BACKGROUNDS.index(reading.background or drawn(BACKGROUNDS, rng))
    return Scene(items, background, int(rng.integers(2**31)))


_BESIDE, _ABOVE = ("left", "right"), ("above", "below")


def _is_vague(reading: Reading) -> bool:
    """Whether the order of two objects is left open."""
    return len(reading.objects) == 2 and reading.relation not in (*_BESIDE, *_ABOVE)


def _layout(reading: Reading, rng: np.random.Generator) -> int:
    if len(reading.objects) < 2:
        return LAYOUTS.index("single")
    if _is_vague(reading):
        return LAYOUTS.index(str(rng.choice(["horizontal", "vertical"])))
    return LAYOUTS.index("horizontal" if reading.relation in _BESIDE else "vertical")


def item_of(words: ObjectWords, x: float, y: float, radii: Mapping[str, float], rng: np.random.Generator) -> Item:
    """An object at (x, y) as a caption describes it; what the caption leaves unsaid is drawn at random."""
    color, size = words.color or drawn(COLORS, rng), words.size or drawn(SIZES, rng)
    pattern = PATTERNS.index(words.pattern or "solid")  # the world always names a pattern that is not solid
    return Item(SHAPES.index(words.shape), COLORS.index(color), pattern, SIZES.index(size), x, y, radii[size])


def drawn(members: Sequence[str], rng: np.random.Generator) -> str:
    """One of the words, at random."""
    return members[int(rng.integers(len(members)))]
