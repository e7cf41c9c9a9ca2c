"""The two worlds that an embedded pipeline may be trained on, as values that training and evaluation take.

Captions of training show no held-out triple of colour, shape and pattern; held-out captions at least one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from . import captions, hard, judge, world
from .labels import Heads
from .world import Scene


class Sampling(Protocol):
    """Draws a scene: with at least one of the held-out triples, or with none."""

    def __call__(self, rng: np.random.Generator, held_out: bool = False) -> Scene:
        """See the class."""
        ...


@dataclass(frozen=True)
class World:
    """Scenes, their captions, and what a text encoder has to tell of them."""

    name: str
    objects: int  # at most
    tokens: int  # of the longest caption, with start and end
    sample: Sampling  # what the denoiser learns and captions are made of
    broad: Sampling  # what the text encoders, the autoencoder and the judge learn
    caption: Callable[[np.random.Generator, Scene], str]
    canonical_caption: Callable[[Scene], str]
    scene_of: Callable[[str, np.random.Generator], Scene]  # one that a caption is true of
    heads: Heads
    labels: Callable[[Sequence[Scene]], dict[str, Tensor]]


EASY = World(
    name="easy",
    objects=judge.OBJECTS,
    tokens=24,
    sample=world.sample_scene,
    broad=world.sample_scene,
    caption=world.caption,
    canonical_caption=world.canonical_caption,
    scene_of=captions.scene_of,
    heads=judge.HEADS,
    labels=judge.labels,
)
HARD = World(
    name="hard",
    objects=hard.OBJECTS,
    tokens=32,
    sample=hard.sample_scene,
    broad=hard.sample_anywhere,
    caption=hard.caption,
    canonical_caption=hard.canonical_caption,
    scene_of=hard.scene_of,
    heads=hard.HEADS,
    labels=hard.labels,
)
WORLDS = {each.name: each for each in (EASY, HARD)}

TRAINING_SEED, HELD_OUT_SEED = 5, 1234


def training_captions(count: int, seed: int = TRAINING_SEED, world: World = EASY) -> list[str]:
    """Captions of scenes without held-out triples."""
    return _captions(count, seed, world, held_out=False)


def held_out_captions(count: int, seed: int = HELD_OUT_SEED, world: World = EASY) -> list[str]:
    """Captions of scenes with a triple that no training has shown."""
    return _captions(count, seed, world, held_out=True)


def _captions(count: int, seed: int, world: World, held_out: bool) -> list[str]:
    rng = np.random.default_rng(seed)
    return [world.canonical_caption(world.sample(rng, held_out)) for _ in range(count)]
