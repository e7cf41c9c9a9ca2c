"""Metric-major scoring: one metric in memory at a time, pictures in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import Metric, RewardError
from .noise import residual_noise
from .pictures import as_floats, as_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 16
LEAST_NOISE_SIDE = 32

Opener = Callable[[], Metric]
"""Loads a metric, or finds the one its host has in memory already."""


class ResidualNoise:
    """Residual noise as a metric: standard deviation in 8-bit levels, less is better. It ignores the prompt."""

    def score(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:  # noqa: ARG002 - the protocol's
        """Noise (n,). Raises RewardError for sides below 32 pixels."""
        for picture in pictures:
            if min(picture.size) < LEAST_NOISE_SIDE:
                size = f"{picture.width}×{picture.height}"
                raise RewardError(f"Residual noise needs {LEAST_NOISE_SIDE} pixels a side; an image has {size}.")
        return torch.cat([residual_noise(image[None]) for image in as_floats(pictures)])


class Judged:
    """One value of a judge (anything with ``score(images (n, 3, H, W), prompts)`` → values by name) as a metric."""

    def __init__(self, judge: Any, key: str) -> None:
        self._judge, self._key = judge, key

    def score(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """The judge's value (n,); pictures may have different sizes."""
        pairs = zip(as_floats(pictures), prompts, strict=True)
        return torch.cat([self._judge.score(image[None], [prompt])[self._key].float() for image, prompt in pairs])


def score_all(
    openers: Mapping[str, Opener],
    images: Tensor | Sequence[Image],
    prompts: str | Sequence[str],
    *,
    chunk: int = CHUNK,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Tensor]:
    """Raw scores (n,), float32 on the CPU, by metric.

    Args:
        openers: how each metric is loaded. It is let go of before the next is loaded.
        images: (n, 3, H, W) in [0, 1], which is rounded to 8 bits as a file would be, or RGB pictures.
        prompts: one for all, or one per image.
        chunk: pictures in one forward pass.
        progress: called with the number of pictures done since the last call, metric after metric.

    Raises RewardError: counts that differ, images or metrics that cannot be judged, a score that is not finite.
    """
    pictures = as_pictures(images) if isinstance(images, Tensor) else list(images)
    prompts = one_each(prompts, len(pictures))
    scores = {}
    for name, opener in openers.items():
        parts = []
        for part in score_chunks(name, opener(), pictures, prompts, chunk):
            parts.append(part)
            if progress:
                progress(len(part))
        scores[name] = torch.cat(parts)
    return scores


def score_chunks(
    name: str, metric: Metric, pictures: Sequence[Image], prompts: Sequence[str], chunk: int = CHUNK
) -> Iterator[Tensor]:
    """Raw scores, a chunk at a time. ``pictures`` may be any sequence, such as one that opens files when sliced."""
    for start in range(0, len(prompts), chunk):
        stop = min(start + chunk, len(prompts))
        values = metric.score(pictures[start:stop], prompts[start:stop])
        bad = (~torch.isfinite(values)).nonzero().flatten().tolist()
        if bad:
            raise RewardError(f"{name} gave {values[bad[0]]} for image {start + bad[0] + 1}; its weights are damaged.")
        yield values


def one_each(prompts: str | Sequence[str], count: int) -> list[str]:
    """A prompt per image; a single one serves all."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not count:
        raise RewardError("There are no images to judge.")
    if len(prompts) not in (1, count):
        raise RewardError(f"There are {count} images but {len(prompts)} prompts; give one prompt, or one per image.")
    return prompts * count if len(prompts) == 1 else prompts
