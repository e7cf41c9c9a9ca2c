"""Scenes of the easy world, which the shipped pipeline draws: sampling, held-out combinations and exact captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .vocabulary import BACKGROUNDS, COLORS, LAYOUTS, PATTERNS, SHAPES, SIZES, SYNONYMS

PIXELS = 128
RADII = {"small": 19.0, "large": 27.5}  # pixels
# Centres of the objects. Chance is left to the background, where γ's effect on detail shows: a denoiser of a million
# parameters then learns the objects in minutes.
PLACES = {
    "single": ((64.0, 64.0),),
    "horizontal": ((32.0, 64.0), (96.0, 64.0)),
    "vertical": ((64.0, 32.0), (64.0, 96.0)),
}


@dataclass(frozen=True)
class Item:
    """One object: indices into the vocabulary, centre and radius in pixels."""

    shape: int
    color: int
    pattern: int
    size: int
    x: float
    y: float
    radius: float

    @property
    def held_out(self) -> bool:
        """True for the eighth of (colour, shape, pattern) triples that training never shows."""
        return (self.color + 2 * self.shape + 3 * self.pattern) % 8 == 0


@dataclass(frozen=True)
class Scene:
    """Objects, a background, and a seed for the random detail. In the easy world the left or top object is first."""

    items: tuple[Item, ...]
    background: int
    detail_seed: int

    @property
    def layout(self) -> int:
        """How the first two objects lie: single, horizontal or vertical."""
        if len(self.items) == 1:
            return LAYOUTS.index("single")
        first, second = self.items[:2]
        return LAYOUTS.index("horizontal" if abs(first.x - second.x) > abs(first.y - second.y) else "vertical")

    @property
    def held_out(self) -> bool:
        """Whether any object is of a held-out triple."""
        return any(item.held_out for item in self.items)


def sample_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """A random scene without held-out triples, or with at least one of them."""
    return drawn_until(lambda: _any_scene(rng), held_out)


def drawn_until(draw: Callable[[], Scene], held_out: bool) -> Scene:
    """The first scene that shows held-out triples, or none of them."""
    while True:
        scene = draw()
        if scene.held_out == held_out:
            return scene


def _any_scene(rng: np.random.Generator) -> Scene:
    layout = int(rng.choice(3, p=(0.25, 0.4, 0.35)))
    items = tuple(any_item(rng, x, y, RADII) for x, y in PLACES[LAYOUTS[layout]])
    return Scene(items, *any_background(rng))


def any_background(rng: np.random.Generator) -> tuple[int, int]:
    """A background, most often one with dots, and a seed for its detail."""
    return int(rng.choice(4, p=(0.15, 0.35, 0.3, 0.2))), int(rng.integers(2**31))


def any_item(rng: np.random.Generator, x: float, y: float, radii: Mapping[str, float]) -> Item:
    """An object of any kind; ``radii``: pixels by size."""
    size, shape, color, pattern = (int(rng.integers(len(kind))) for kind in (SIZES, SHAPES, COLORS, PATTERNS))
    return Item(shape, color, pattern, size, x, y, radii[SIZES[size]])


def canonical_caption(scene: Scene) -> str:
    """The full caption of a scene in the plainest words."""
    return _join(scene, [phrase(item) for item in scene.items], backdrop(scene), 0, False)


def caption(rng: np.random.Generator, scene: Scene) -> str:
    """A true caption of ``scene``: synonyms, either order of mention, now and then something left unsaid."""
    phrases = [phrase(item, rng) for item in scene.items]
    background = "" if rng.random() < 0.1 else backdrop(scene, int(rng.integers(4)))
    words = _join(scene, phrases, background, int(rng.integers(3)), bool(rng.random() < 0.5), vague=rng.random() < 0.06)
    if rng.random() < 0.08:
        words = f"a {rng.choice(['photo', 'picture', 'drawing'])} of {words}"
    return reworded(rng, words)


def phrase(item: Item, rng: np.random.Generator | None = None) -> str:
    """The words of one object, everything said; with ``rng`` now and then something is left out."""
    said = rng.random(3) > (0.12, 0.0, 0.08) if rng is not None else np.ones(3, bool)
    pattern = PATTERNS[item.pattern]
    if pattern == "solid" and (rng is None or rng.random() < 0.7):
        pattern = ""
    words = [SIZES[item.size] if said[0] else "", pattern if said[1] else "", COLORS[item.color] if said[2] else ""]
    body = " ".join([word for word in words if word] + [SHAPES[item.shape]])
    return f"{'an' if body[0] in 'aeiou' else 'a'} {body}"


BETWEEN = {
    ("horizontal", False): ("left of", "to the left of", "left of"),
    ("horizontal", True): ("right of", "to the right of", "right of"),
    ("vertical", False): ("above", "above", "over"),
    ("vertical", True): ("below", "below", "under"),
}
VAGUE = {"horizontal": "next to", "vertical": "and"}
_BACKDROP = {
    "plain": ("on a plain background", "on a plain background", "on an empty background", "plain background"),
    "starry": ("on a starry background", "in a starry sky", "in the night sky", "with stars"),
    "confetti": ("on a confetti background", "on confetti", "with confetti", "confetti background"),
    "cloudy": ("on a cloudy background", "in a cloudy sky", "in the clouds", "cloudy background"),
}


def backdrop(scene: Scene, wording: int = 0) -> str:
    """The words of the background, in one of four wordings."""
    return _BACKDROP[BACKGROUNDS[scene.background]][wording]


def _join(scene: Scene, phrases: list[str], background: str, wording: int, swapped: bool, vague: bool = False) -> str:
    if len(phrases) == 1:
        return f"{phrases[0]} {background}".strip()
    layout = LAYOUTS[scene.layout]
    between = VAGUE[layout] if vague else BETWEEN[layout, swapped][wording]
    first, second = reversed(phrases) if swapped else phrases
    return f"{first} {between} {second} {background}".strip()


_OTHER_WORDS = {
    word: [other for other, meaning in SYNONYMS.items() if meaning == word]
    for word in (*SHAPES, *COLORS, *PATTERNS, *SIZES)
}


def reworded(rng: np.random.Generator, words: str) -> str:
    """The words, some of them replaced by synonyms."""
    return " ".join(_synonym(rng, word) for word in words.split())


def _synonym(rng: np.random.Generator, word: str) -> str:
    others = _OTHER_WORDS.get(word)
    return str(rng.choice(others)) if others and rng.random() < 0.15 else word
