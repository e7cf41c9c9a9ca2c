"""How near generated images are to true pictures of the embedded world: what the judge sees in both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .judge import JudgeNetwork, sized
from .render import render
from .world import Scene

CHUNK = 64


class JudgeFeatures:
    """Features of images (n, 3, H, W) → (n, features), for an energy distance to true pictures.

    64 are means over the judge's early maps, which tell texture and dots; the others (256 in the easy world, 128 in the
    hard one) are those it reads attributes from. Each is standardised by its mean and deviation over the true pictures,
    and both kinds weigh the same. The judge was trained to overlook weak noise, and so does the distance: residual
    noise is measured by itself.
    """

    def __init__(self, judge: JudgeNetwork, scenes: Sequence[Scene]) -> None:
        self._judge = judge
        seen = self._look(render(scenes)[0])
        self._middle = [part.mean(0) for part in seen]
        self._scale = [part.std(0).clamp_min(1e-3) * part.shape[1] ** 0.5 for part in seen]
        self.real = self._standardised(seen)  # (scenes, features)

    def __call__(self, images: Tensor) -> Tensor:
        """Features (n, features) of images in [0, 1]."""
        return self._standardised(self._look(images))

    def _look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        early, late = zip(*map(self._judge.features, sized(images).split(CHUNK)), strict=True)
        return torch.cat(early), torch.cat(late)

    def _standardised(self, seen: tuple[Tensor, Tensor]) -> Tensor:
        parts = zip(seen, self._middle, self._scale, strict=True)
        return torch.cat([(part - middle) / scale for part, middle, scale in parts], 1)
