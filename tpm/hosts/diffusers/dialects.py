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
    rounds: bool  # whether the model casts its timestep to the dtype of the latent

    def read_layout(self, image_ids: Tensor | None, latent: Tensor) -> None:
        """Learn how a run's latents are laid out, from the patches' positions in its first call."""

    def to_map(self, latent: Tensor) -> Tensor:
        """The scheduler's latent as (B, C, H, W)."""

    def from_map(self, latent: Tensor) -> Tensor:
        """The inverse of `to_map`."""


class SD3:
    """SD3 and SD3.5: timestep 1000·σ, and latents are maps."""

    backbone: Backbone = "sd3"
    scale = 1000.0
    rounds = False

    def read_layout(self, image_ids: Tensor | None, latent: Tensor) -> None:
        pass

    def to_map(self, latent: Tensor) -> Tensor:
        return latent

    def from_map(self, latent: Tensor) -> Tensor:
        return latent


class Flux:
    """Flux.1: timestep σ, and latents are packed as 2 × 2 patches (B, rows · columns, 4C)."""

    backbone: Backbone = "flux"
    scale = 1.0
    rounds = True

    def __init__(self) -> None:
        self.columns = 0

    def read_layout(self, image_ids: Tensor | None, latent: Tensor) -> None:
        """See `Dialect`. Copies the patches' positions to the host, once per run."""
        if image_ids is None:
            raise HostError("The denoiser was called without img_ids; a policy that reads the latent needs them.")
        self.columns = count_columns(image_ids, latent.shape[1])

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


def count_columns(image_ids: Tensor, patches: int | None = None) -> int:
    """Patches in one row, from positions (…, L, 3) = (image, row, column) in reading order.

    patches: how many of them the latent has; reference images may follow (Kontext). Raises HostError where the latent
    is no rectangle, as with several images of different widths in one sequence.
    """
    positions = image_ids.reshape(-1, image_ids.shape[-2], 3)[0, :patches, 2].tolist()
    columns = positions.index(positions[0], 1) if positions[0] in positions[1:] else len(positions)
    if positions != positions[:columns] * (len(positions) // columns):
        raise HostError(
            "The latent of this run is not one rectangle, so that a policy that reads it (a TPM) cannot be used; use a"
            " constant or a curve, or images of one width."
        )
    return columns


def prompt_of(call: Mapping[str, Any], batch: int) -> TextCondition:
    """The prompt in the arguments of a denoiser's call, for a latent of `batch` samples; see `conditional`."""
    return conditional(TextCondition(call.get("encoder_hidden_states"), call.get("pooled_projections")), batch)


def conditional(stacked: TextCondition, batch: int) -> TextCondition:
    """The prompt's own rows of what the denoiser was called with, for a latent of `batch` samples."""
    parts = (stacked.context, stacked.pooled)
    return TextCondition(*(None if part is None else conditional_rows(part, batch) for part in parts))


def conditional_rows(stacked: Tensor, batch: int) -> Tensor:
    """The conditional ones of the rows of a call, for a latent of `batch` samples. HostError where they do not fit.

    Guidance stacks [unconditional, conditional], perturbed attention adds a third part or repeats the conditional one:
    wherever there are several parts, the second is conditional.
    """
    if len(stacked) == batch:
        return stacked
    if len(stacked) == 1:
        return stacked.expand(batch, *stacked.shape[1:])
    if len(stacked) % batch:
        raise HostError(
            f"The denoiser was called with {len(stacked)} prompts for {batch} latents; what reads the prompt (a TPM,"
            " regions of phrases) needs the same number, or a multiple of it."
        )
    return stacked[batch : 2 * batch]


def dialect_of(pipe: Any) -> Dialect:
    """The dialect of a pipeline's denoiser. Raises HostError for families that are not SD3, SD3.5 or Flux."""
    denoiser = getattr(pipe, "transformer", None)
    name = type(getattr(denoiser, "_orig_mod", denoiser)).__name__  # _orig_mod: inside torch.compile's wrapper
    if name == "SD3Transformer2DModel":
        return SD3()
    if name == "FluxTransformer2DModel":
        return Flux()
    raise HostError(f"{type(pipe).__name__} has the denoiser {name}; asyncdiff drives SD3, SD3.5 and Flux pipelines.")
