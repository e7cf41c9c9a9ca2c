"""Captions of the embedded world as prompts: for training, held out for judging, and read back as scenes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .vocabulary import BACKGROUNDS, COLORS, LAYOUTS, PATTERNS, SHAPES, SIZES, ObjectWords, Reading, read
from .world import PLACES, RADII, Item, Scene, canonical_caption, sample_scene

TRAINING_SEED, HELD_OUT_SEED = 5, 1234


def training_captions(count: int, seed: int = TRAINING_SEED) -> list[str]:
    """Captions of scenes without held-out triples."""
    return _captions(count, seed, held_out=False)


def held_out_captions(count: int, seed: int = HELD_OUT_SEED) -> list[str]:
    """Captions of scenes with a triple that no training has shown."""
    return _captions(count, seed, held_out=True)


def _captions(count: int, seed: int, held_out: bool) -> list[str]:
    rng = np.random.default_rng(seed)
    return [canonical_caption(sample_scene(rng, held_out)) for _ in range(count)]


def says_everything(prompt: str) -> bool:
    """Whether a caption leaves nothing of the objects and their places open, so that they have one true picture."""
    reading = read(prompt)
    described = all(item.size and item.color for item in reading.objects)
    placed = len(reading.objects) == 1 or reading.relation in (*_BESIDE, *_ABOVE)
    return bool(reading.objects) and described and placed and reading.background is not None


def scene_of(prompt: str, rng: np.random.Generator) -> Scene:
    """A scene that a caption is true of; what it leaves unsaid is drawn at random, as is the background's detail."""
    reading = read(prompt)
    layout = _layout(reading, rng)
    objects = [*reading.objects] or [ObjectWords(_drawn(SHAPES, rng))]
    if reading.relation in ("right", "below") or (_is_vague(reading) and rng.random() < 0.5):
        objects.reverse()
    places = PLACES[LAYOUTS[layout]]
    items = tuple(_item(words, x, y, rng) for words, (x, y) in zip(objects, places, strict=True))
    background = BACKGROUNDS.index(reading.background or _drawn(BACKGROUNDS, rng))
    return Scene(items, layout, background, int(rng.integers(2**31)))


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


def _item(words: ObjectWords, x: float, y: float, rng: np.random.Generator) -> Item:
    color, size = words.color or _drawn(COLORS, rng), words.size or _drawn(SIZES, rng)
    pattern = PATTERNS.index(words.pattern or "solid")  # the world always names a pattern that is not solid
    return Item(SHAPES.index(words.shape), COLORS.index(color), pattern, SIZES.index(size), x, y, RADII[size])


def _drawn(members: Sequence[str], rng: np.random.Generator) -> str:
    return members[int(rng.integers(len(members)))]
