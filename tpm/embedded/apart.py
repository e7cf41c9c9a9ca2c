"""What an evaluation reports beside the reward: objects and background apart, detail and objects against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from ..training.compare.measure import BACKGROUND, DETAIL, DETAIL_ERROR, OBJECT_MSE, OBJECTS
from .captions import says_everything, scene_of
from .judge import JudgeNetwork, Sight, detail_density, sized
from .render import render
from .reward import detail_error
from .vocabulary import Reading, read
from .world import Scene


class ApartFromReward:
    """Images (n, 3, H, W) in [0, 1] and their n captions → values (n,) by name. No reward is made of them.

    `OBJECTS`, `BACKGROUND`: the mean probability of what the caption says of each, by the judge. `DETAIL`: dots per
    1,000 background pixels. `DETAIL_ERROR`: the same, minus what true pictures of the caption have on average; 0 where
    the background is left open. `OBJECT_MSE`: the mean squared difference to the true picture where its objects are,
    which no network judges; it is there only where all prompts leave nothing of the objects open (in the hard world
    every prompt leaves the places open).
    """

    def __init__(self, judge: JudgeNetwork, prompts: Sequence[str]) -> None:
        self._judge = judge
        self._exact = judge.world == "easy" and all(map(says_everything, prompts))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """See the class. The true picture of a caption is the same in every arm."""
        images = sized(images)
        sight = self._judge.look(images)
        values = _agreements(sight, prompts)
        values[DETAIL] = detail_density(images, sight.objects)
        values[DETAIL_ERROR] = detail_error(values[DETAIL], prompts)
        if self._exact:
            truth, objects, _ = render([_true_scene(prompt) for prompt in prompts])
            squares = (images - truth.to(images)).square().mean(1) * objects.to(images)
            values[OBJECT_MSE] = squares.sum((1, 2)) / objects.to(images).sum((1, 2))
        return values


def _agreements(sight: Sight, prompts: Sequence[str]) -> dict[str, Tensor]:
    """`OBJECTS` and `BACKGROUND` (n,) from what the judge reads."""
    readings = [read(prompt) for prompt in prompts]
    parts = {
        OBJECTS: [replace(reading, background=None) for reading in readings],
        BACKGROUND: [Reading((), background=reading.background) for reading in readings],
    }
    return {
        name: torch.tensor([sight.agreement(row, asked)[1] for row, asked in enumerate(part)])
        for name, part in parts.items()
    }


def _true_scene(prompt: str) -> Scene:
    """A scene of the caption that depends on the caption alone."""
    return scene_of(prompt, np.random.default_rng(crc32(prompt.encode())))
