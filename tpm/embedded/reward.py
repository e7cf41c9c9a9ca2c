"""The reward of training and search on the embedded world: nothing earns more than a true picture would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..rewards.catalogue import CLEAN
from ..training.compare.measure import LEAST_NOISE
from .judge import Judge, JudgeNetwork, sized
from .render import render
from .vocabulary import BACKGROUNDS, read
from .world import sample_scene

ALIGNMENT, DETAIL_FIT = "alignment", "detail fit"
TRUE_DETAIL = {"plain": 0.007, "starry": 2.30, "confetti": 1.85, "cloudy": 0.157}
"""Dots per 1,000 background pixels that true pictures have, by background, as the judge counts them: see `counted`."""

YARDSTICK = {ALIGNMENT: 0.0215, DETAIL_FIT: 0.209, CLEAN: LEAST_NOISE}
"""The unit of gain by metric: σ between two synchronous images of a caption (Euler, 8 steps, guidance 3), measured by
``asyncdiff evaluate --own-yardstick --captions-seed 77 --count 512 --gamma 0 --variant --more-steps``. It is fixed, so
that gains of several tables compare."""


def true_detail(prompts: Sequence[str]) -> Tensor:
    """What n captions should have of it (n,); NaN where a caption leaves the background open: any detail is true."""
    backgrounds = [read(prompt).background for prompt in prompts]
    return torch.tensor([TRUE_DETAIL[word] if word else float("nan") for word in backgrounds])


def detail_error(detail: Tensor, prompts: Sequence[str]) -> Tensor:
    """Detail (n,) minus that of true pictures; 0 where the caption leaves the background open."""
    truth = true_detail(prompts).to(detail)
    return torch.where(truth.isnan(), torch.zeros_like(detail), detail - truth)


def counted(judge: Judge, background: str, pictures: int, seed: int = 0) -> float:
    """The number of `TRUE_DETAIL`, measured: the mean over so many true pictures with this background."""
    rng, number = np.random.default_rng(seed), BACKGROUNDS.index(background)
    scenes = [replace(sample_scene(rng), background=number) for _ in range(pictures)]
    return float(judge.detail(render(scenes)[0]).mean())


class TowardsTruth:
    """Images (n, 3, H, W) in [0, 1] and n captions → three scores (n,), each highest for a true picture.

    ``alignment``: the mean probability of what the caption asks for. ``detail fit``: −|dots − dots of true pictures|,
    per 1,000 background pixels; 0 where the caption leaves the background open. ``clean``: −max(noise, .25) in 8-bit
    levels, since nobody sees less noise than that.
    """

    def __init__(self, judge: JudgeNetwork) -> None:
        self._judge = judge

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """See the class. Raises AsyncDiffError for other numbers of images and captions."""
        images = sized(images)
        values = self._judge.score(images, prompts)
        return {
            ALIGNMENT: values["alignment"],
            DETAIL_FIT: -detail_error(values["detail"], prompts).abs(),
            CLEAN: -values["noise"].clamp_min(LEAST_NOISE),
        }
