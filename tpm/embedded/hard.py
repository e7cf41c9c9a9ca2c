"""Scenes of the hard world: up to three smaller objects, each in one of nine places that no caption names.

A caption can go wrong in more ways than in the easy world: an attribute leaks from one object to another, an object is
missing or drawn twice, two objects lie the wrong way round. A denoiser has to find a place for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from . import labels as words
from .captions import drawn, item_of
from .judge_file import MOST_OBJECTS
from .vocabulary import BACKGROUNDS, LAYOUTS, SHAPES, ObjectWords, read
from .world import (
    BETWEEN,
    PIXELS,
    VAGUE,
    Item,
    Scene,
    any_background,
    any_item,
    backdrop,
    drawn_until,
    phrase,
    reworded,
)

PLACES = (28.0, 64.0, 100.0)  # pixels, across and down
RADII = {"small": 15.0, "large": 22.0}  # pixels
OBJECTS = MOST_OBJECTS["hard"]
SPACING = 2.0  # pixels between two objects and to the border, at least
REACH = {"star": 1.12}  # how far a shape reaches, in radii; 1 for the others
RELATIONS = ("single", "left", "right", "above", "below")
HEADS = words.heads(RELATIONS, OBJECTS)


def sample_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """A random scene without held-out triples, or with at least one of them; objects in the order of mention."""
    return drawn_until(lambda: _any_scene(rng, _one_of_nine), held_out)


def sample_anywhere(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """The same with objects anywhere in the picture, as generated pictures may have them."""
    return drawn_until(lambda: _any_scene(rng, _anywhere), held_out)


Places = Callable[[np.random.Generator], "list[float]"]  # draws (x, y)


def _one_of_nine(rng: np.random.Generator) -> list[float]:
    return [PLACES[n] for n in rng.integers(len(PLACES), size=2)]


def _anywhere(rng: np.random.Generator) -> list[float]:
    return rng.uniform(0, PIXELS, 2).tolist()


def _any_scene(rng: np.random.Generator, places: Places) -> Scene:
    count = int(rng.choice((1, 2, 3), p=(0.1, 0.35, 0.55)))
    items = _placed(rng, count, places, lambda _, x, y: any_item(rng, x, y, RADII))
    return Scene(items, *any_background(rng))


def _placed(
    rng: np.random.Generator, count: int, places: Places, make: Callable[[int, float, float], Item]
) -> tuple[Item, ...]:
    """``count`` objects apart from each other. make: the object of a number, at a place (x, y)."""
    items: list[Item] = []
    while len(items) < count:
        item = make(len(items), *places(rng))
        if _fits(item, items):
            items.append(item)
        elif rng.random() < 0.02:  # the objects that are there may leave no room
            items.clear()
    return tuple(items)


def _fits(item: Item, others: Sequence[Item]) -> bool:
    reach = _reach(item) + SPACING
    inside = all(reach <= at <= PIXELS - reach for at in (item.x, item.y))
    return inside and all(math.hypot(item.x - other.x, item.y - other.y) >= reach + _reach(other) for other in others)


def _reach(item: Item) -> float:
    return item.radius * REACH.get(SHAPES[item.shape], 1.0)


def scene_of(prompt: str, rng: np.random.Generator) -> Scene:
    """A scene that a caption is true of; what it leaves unsaid, places included, is drawn at random."""
    reading = read(prompt)
    objects = [*reading.objects] or [ObjectWords(drawn(SHAPES, rng))]
    background = BACKGROUNDS.index(reading.background or drawn(BACKGROUNDS, rng))
    while True:
        items = _placed(rng, len(objects), _one_of_nine, lambda n, x, y: item_of(objects[n], x, y, RADII, rng))
        scene = Scene(items, background, int(rng.integers(2**31)))
        if reading.relation not in RELATIONS or relation_of(scene) == RELATIONS.index(reading.relation):
            return scene


def canonical_caption(scene: Scene) -> str:
    """The full caption of a scene in the plainest words."""
    return _join(scene, [phrase(item) for item in scene.items], backdrop(scene), 0, vague=False)


def caption(rng: np.random.Generator, scene: Scene) -> str:
    """A true caption of ``scene``: synonyms, now and then something left unsaid."""
    phrases = [phrase(item, rng) for item in scene.items]
    background = "" if rng.random() < 0.1 else backdrop(scene, int(rng.integers(4)))
    return reworded(rng, _join(scene, phrases, background, int(rng.integers(3)), vague=rng.random() < 0.1))


def _join(scene: Scene, phrases: list[str], background: str, wording: int, vague: bool) -> str:
    """The relation of the first two objects is said; the third may be anywhere."""
    if len(phrases) == 1:
        return f"{phrases[0]} {background}".strip()
    layout, relation = LAYOUTS[scene.layout], RELATIONS[relation_of(scene)]
    between = VAGUE[layout] if vague else BETWEEN[layout, relation in ("right", "below")][wording]
    third = f" and {phrases[2]}" if len(phrases) > 2 else ""
    return f"{phrases[0]} {between} {phrases[1]}{third} {background}".strip()


def relation_of(scene: Scene) -> int:
    """Where the first object is, seen from the second, along the axis that parts them more: an index of `RELATIONS`."""
    if len(scene.items) == 1:
        return RELATIONS.index("single")
    first, second = scene.items[:2]
    if LAYOUTS[scene.layout] == "horizontal":
        return RELATIONS.index("left" if first.x < second.x else "right")
    return RELATIONS.index("above" if first.y < second.y else "below")


def labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Class indices per head of `HEADS` (n,), objects in the order of mention."""
    return words.labels(scenes, [relation_of(scene) for scene in scenes], OBJECTS)
