"""What training needs of the world: a studio that renders, a scorer that judges, and noise seeds that never repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from ..policies import Policy
from ..policies.network import TPMConfig
from ..retiming.contract import Backbone
from ..retiming.settings import Retiming
from ..retiming.trace import Trace
from ..rewards.noise import residual_noise

Scorer: TypeAlias = Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]]
"""Images (n, 3, H, W) in [0, 1] and n prompts → raw scores (n,) by metric. Higher is better, except residual noise."""


class Rendering(Protocol):
    """What one call of a studio gives."""

    @property
    def images(self) -> Tensor:
        """Images (n, 3, H, W), or frames (n, F, 3, H, W) of videos, in [0, 1], fp32, on the CPU."""

    @property
    def trace(self) -> Trace | None:
        """What was decided; None where no policy was asked."""


class ConfiguredModel(Protocol):
    """One model with its sampling settings."""

    @property
    def backbone(self) -> Backbone:
        """The model family."""

    def describe(self) -> dict[str, object]:
        """The settings that make a picture or a latent (model, guidance, size, dtype, …), as JSON."""

    def sigma_grid(self, steps: int) -> list[float]:
        """The σ of a run, `steps` + 1 of them."""


class Studio(ConfiguredModel, Protocol):
    """One that renders. Prompts are names that the studio understands."""

    @property
    def device(self) -> torch.device:
        """Where latents live."""

    @property
    def saved_evaluations(self) -> int:
        """Evaluations that were not made so far, in images: runs that start alike share their first one."""

    def tpm_config(self, **size: int) -> TPMConfig:
        """The configuration of a TPM for this model; `size` overrides the paper's."""

    def render(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        policy: Policy | None = None,
        retiming: Retiming | None = None,
        *,
        steps: int,
    ) -> Rendering:
        """One image for each (prompt, seed), in one batch. An image's start noise depends on its seed alone."""


def derive(*parts: int | str) -> int:
    """A 63-bit seed that is a hash of its parts, such as (seed, "noise", iteration, sample)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def scored(scorer: Scorer, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
    """A scorer's answer as it is kept: (n,) fp32 on the CPU, by metric. A video's score is the mean over its frames."""
    stills, frames = still_images(images)
    scores = scorer(stills, [prompt for prompt in prompts for _ in range(frames)])
    return {name: _per_video(values.detach().cpu().float(), frames) for name, values in scores.items()}


def noise_of(images: Tensor) -> Tensor:
    """Residual noise (n,) in 8-bit levels; of a video the mean over its frames."""
    stills, frames = still_images(images)
    return _per_video(residual_noise(stills), frames)


def still_images(images: Tensor) -> tuple[Tensor, int]:
    """Images (n, 3, H, W) or frames (n, F, 3, H, W) → pictures (n·F, 3, H, W), and F; it is 1 for images."""
    return (images.flatten(0, 1), images.shape[1]) if images.ndim == 5 else (images, 1)


def _per_video(values: Tensor, frames: int) -> Tensor:
    return values if frames == 1 else values.unflatten(0, (-1, frames)).mean(1)


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The scores of several batches as one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
