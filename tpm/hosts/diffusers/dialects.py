"""How a denoiser of diffusers is spoken to: the unit of its timestep, its prompt, the layout of its latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from ...errors import HostError
from ...retiming.contract import Backbone, TextCondition


class Dialect(Protocol):
    """What differs between model families."""

    backbone: Backbone
    scale: float  # the denoiser's `timestep` argument is scale · σ

    def begin(self, pipe: Any, call: Mapping[str, Any]) -> TextCondition:
        """Read the prompt's conditional branch, and the layout, from the keyword arguments of a run's first call."""

    def to_map(self, latent: Tensor) -> Tensor:
        """The scheduler's latent as (B, C, H, W)."""

    def from_map(self, latent: Tensor) -> Tensor:
        """The inverse of `to_map`."""


class SD3:
    """SD3 and SD3.5: timestep 1000·σ, latents are maps, guidance stacks [unconditional, conditional] in one batch."""

    backbone: Backbone = "sd3"
    scale = 1000.0

    def begin(self, pipe: Any, call: Mapping[str, Any]) -> TextCondition:
        """See `Dialect`."""
        context, pooled = call.get("encoder_hidden_states"), call.get("pooled_projections")
        if getattr(pipe, "do_classifier_free_guidance", False):
            context, pooled = _second_half(context), _second_half(pooled)
        return TextCondition(context, pooled)

    def to_map(self, latent: Tensor) -> Tensor:
        """See `Dialect`."""
        return latent

    def from_map(self, latent: Tensor) -> Tensor:
        """See `Dialect`."""
        return latent


class Flux:
    """Flux.1: timestep σ, latents packed as 2 × 2 patches (B, rows · columns, 4C), the conditional call comes first."""

    backbone: Backbone = "flux"
    scale = 1.0

    def __init__(self) -> None:
        self.columns = 0

    def begin(self, pipe: Any, call: Mapping[str, Any]) -> TextCondition:  # noqa: ARG002 - the protocol's signature
        """See `Dialect`. Copies the patches' positions to the host, once per run."""
        self.columns = count_columns(call["img_ids"])
        return TextCondition(call.get("encoder_hidden_states"), call.get("pooled_projections"))

    def to_map(self, latent: Tensor) -> Tensor:
        """(B, rows · columns, 4C) → (B, C, 2 rows, 2 columns)."""
        batch, patches, channels = latent.shape
        grid = latent.reshape(batch, patches // self.columns, self.columns, channels // 4, 2, 2)
        return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def from_map(self, latent: Tensor) -> Tensor:
        """(B, C, H, W) → (B, H·W/4, 4C)."""
        batch, channels, height, width = latent.shape
        grid = latent.reshape(batch, channels, height // 2, 2, width // 2, 2)
        return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def count_columns(image_ids: Tensor) -> int:
    """Patches in one row, from their positions (…, L, 3) = (image, row, column) in reading order."""
    columns = image_ids.reshape(-1, image_ids.shape[-2], 3)[0, :, 2].tolist()
    return columns.index(0, 1) if 0 in columns[1:] else len(columns)


def dialect_of(pipe: Any) -> Dialect:
    """The dialect of a pipeline's denoiser. Raises HostError for families that are not SD3, SD3.5 or Flux."""
    denoiser = getattr(pipe, "transformer", None)
    name = type(getattr(denoiser, "_orig_mod", denoiser)).__name__  # _orig_mod: inside torch.compile's wrapper
    if name == "SD3Transformer2DModel":
        return SD3()
    if name == "FluxTransformer2DModel":
        return Flux()
    raise HostError(f"{type(pipe).__name__} has the denoiser {name}; asyncdiff drives SD3, SD3.5 and Flux pipelines.")


def _second_half(stacked: Tensor | None) -> Tensor | None:
    return None if stacked is None else stacked.chunk(2)[1]
