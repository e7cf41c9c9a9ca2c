"""What the images of a training or a search start from: a latent of the model's kind, and the noise of a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management
import comfy.sample
import torch
from torch import Tensor

from .. import latents

JUDGED = "The rewards judge pictures"
INSTEAD = (
    "Connect the VAE of the pictures; for sound or a shape compare Constant Deviation or Deviation Curve at several"
    " strengths (γ) yourself."
)


class Start:
    """The latent of one image: empty, in the model's channels and the VAE's scale; or the first of a LATENT.

    A video model has one frame unless a LATENT says how many. `judged` raises HostError where the VAE makes no pictures
    of it.
    """

    def __init__(self, model: Any, latent: Any, given: Mapping[str, Any] | None = None) -> None:
        """latent: of one image; given: the LATENT that it is of, if it is of one."""
        self._latent = latents.with_channels_of(model, {**(given or {}), "samples": latent})
        self.mask = _first(given.get("noise_mask")) if given else None
        self._given = given is not None

    @classmethod
    def judged(cls, model: Any, vae: Any, width: int, height: int, given: Mapping[str, Any] | None = None) -> Start:
        """What the VAE makes pictures of. width, height: of the picture, in pixels; `given` is in place of them."""
        shape = torch.zeros(1, 1, 1, 1) if given is None else given["samples"]
        latents.check_pictures(JUDGED, model, vae, shape, INSTEAD)
        return cls(model, _empty(model, vae, width, height)) if given is None else cls.of(model, given)

    @classmethod
    def of(cls, model: Any, given: Mapping[str, Any]) -> Start:
        """The first of a LATENT."""
        return cls(model, given["samples"][:1], given)

    @property
    def shape(self) -> tuple[int, ...]:
        """(1, C, [T,] H, W) of the pictures' latent."""
        return tuple(latents.picture_part(self._latent).shape)

    @property
    def channels(self) -> int:
        """C of the pictures' latent."""
        return self.shape[1]

    @property
    def whole(self) -> bool:
        """Whether the latent is one tensor, as a TPM reads it; not video and sound in one."""
        return len(latents.parts(self._latent)) == 1

    def latents(self, count: int) -> Any:
        """The latent, so many times."""
        return latents.joined([self._latent] * count)

    def noise(self, seeds: Sequence[int]) -> Any:
        """A noise for each seed, which depends on nothing else."""
        return latents.joined([comfy.sample.prepare_noise(self._latent, seed) for seed in seeds])

    def describe(self, width: int, height: int) -> dict[str, object]:
        """As JSON: the size in pixels, or the shapes of the latent that was given."""
        if not self._given:
            return {"size": [width, height]}
        masked = {"mask": [float(part.mean()) for part in latents.parts(self.mask)]} if self.mask is not None else {}
        return {"latent": [list(part.shape[1:]) for part in latents.parts(self._latent)], **masked}


def stills(vae: Any, samples: Any) -> Tensor:
    """The pictures to judge: (B, 3, H, W); of a video its first, middle and last frame (B, F, 3, H, W). fp32, CPU."""
    frames = latents.decoded(vae, samples)
    chosen = frames[:, latents.chosen_frames(frames.shape[1]), ..., :3].movedim(-1, 2).float().cpu()
    return chosen[:, 0] if chosen.shape[1] == 1 else chosen


def _empty(model: Any, vae: Any, width: int, height: int) -> Tensor:
    shape = model.get_model_object("latent_format")
    known = getattr(vae, "spacial_compression_encode", None)
    scale = known() if known else getattr(shape, "spacial_downscale_ratio", 8)
    where = comfy.model_management.intermediate_device()
    return torch.zeros(1, shape.latent_channels, max(height // scale, 1), max(width // scale, 1), device=where)


def _first(mask: Any) -> Any:
    """The mask of the first latent; a mask without a batch is everybody's."""
    return mask if mask is None or latents.picture_part(mask).ndim < 3 else mask[:1]
