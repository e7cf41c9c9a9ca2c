"""How a denoiser of diffusers is spoken to: its clock, its prompt, the layout of its latents, what it predicts.

A dialect is one model family's; `families` knows which one a pipeline speaks. Times are on the unit line of
`retiming.clock`: 1 is noise, 0 the image, and for a flow model u is σ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ...errors import HostError
from ...retiming.contract import TextCondition
from ...retiming.equations import Value
from .calls import Call


@dataclass(frozen=True)
class Place:
    """Where in its grid a scheduler steps."""

    scheduler: Any
    timestep: Any  # as the pipeline hands it to the scheduler's `step`
    index: int  # of the evaluation before the step


class Dialect(Protocol):
    """What differs between model families."""

    backbone: str  # the family's name in policy files
    part: str  # the pipeline's attribute that holds the denoiser
    argument: str  # the denoiser's argument that is the timestep
    rounds: bool  # whether the model casts its timestep to the dtype of the latent

    def told(self, unit: Value) -> Value:
        """What the denoiser is told for u."""

    def scheduler_time(self, told: float) -> float:
        """The scheduler's timestep for what the denoiser was told: the inverse of `told`, in the scheduler's unit."""

    def levels(self, sigmas: list[float], times: list[float]) -> list[float]:
        """The u of a scheduler's grid, one for each evaluation, and the end; from its σ and its timesteps."""

    def check_scheduler(self, scheduler: Any) -> None:
        """Raise HostError unless the scheduler's grid and position can be read, and its steps keep what is promised."""

    def rows(self, call: Call) -> int | None:
        """How many rows a call has, where one timestep stands for all; None where each row has its own."""

    def prompt(self, call: Call) -> TextCondition:
        """The prompts in a call, stacked as guidance stacks them."""

    def conditional(self, prompts: TextCondition, batch: int) -> TextCondition:
        """The prompt's own rows of them, for a latent of `batch` samples."""

    def layout(self, call: Call) -> Any:
        """What in a run's first call says how the latent is laid out."""

    def read_layout(self, layout: Any, latent: Tensor) -> None:
        """Learn how a run's latents are laid out, from `layout` of its first call."""

    def to_map(self, latent: Tensor) -> Tensor:
        """The scheduler's latent as (B, C, H, W)."""

    def from_map(self, latent: Tensor) -> Tensor:
        """The inverse of `to_map`."""

    def seen(self, sample: Tensor, place: Place) -> Tensor:
        """The scheduler's latent as the denoiser sees it."""

    def velocity(self, output: Tensor, sample: Tensor, place: Place) -> Tensor:
        """What a policy sees as v, and ω scales: a flow's velocity; the noise ε elsewhere. Shaped as the output."""

    def output(self, scaled: Tensor, velocity: Tensor, output: Tensor, place: Place) -> Tensor:
        """The output that says `scaled` in place of `velocity`; the same values wherever the two are equal."""


class FlowDialect:
    """Flow matching with maps as latents: what its families share. The denoiser is told scale · σ."""

    backbone: str
    part = "transformer"
    argument = "timestep"
    scale = 1000.0
    rounds = False

    def told(self, unit: Value) -> Value:
        return self.scale * unit

    def scheduler_time(self, told: float) -> float:
        return told * 1000 / self.scale

    def levels(self, sigmas: list[float], times: list[float]) -> list[float]:  # noqa: ARG002
        return sigmas

    def check_scheduler(self, scheduler: Any) -> None:
        """See `Dialect`: a flow-matching one."""
        config = getattr(scheduler, "config", {})
        families = [family.__name__ for family in type(scheduler).__mro__]
        flow = any(name.startswith("FlowMatch") for name in families) or config.get("use_flow_sigmas", False)
        if not flow or not all(hasattr(scheduler, name) for name in ("sigmas", "step_index", "begin_index")):
            raise HostError(
                f"The scheduler {type(scheduler).__name__} is not a flow-matching one; use"
                " FlowMatchEulerDiscreteScheduler or FlowMatchHeunDiscreteScheduler."
            )

    def rows(self, call: Call) -> int | None:  # noqa: ARG002 - the protocol's signature
        return None

    def prompt(self, call: Call) -> TextCondition:
        return TextCondition(call.get("encoder_hidden_states"), call.get("pooled_projections"))

    def conditional(self, prompts: TextCondition, batch: int) -> TextCondition:
        return conditional(prompts, batch)

    def layout(self, call: Call) -> Any:
        return call.get("img_ids")

    def read_layout(self, layout: Any, latent: Tensor) -> None:
        pass

    def to_map(self, latent: Tensor) -> Tensor:
        return latent

    def from_map(self, latent: Tensor) -> Tensor:
        return latent

    def seen(self, sample: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        return sample

    def velocity(self, output: Tensor, sample: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        return output

    def output(self, scaled: Tensor, velocity: Tensor, output: Tensor, place: Place) -> Tensor:  # noqa: ARG002
        return scaled


class SD3(FlowDialect):
    """SD3 and SD3.5: timestep 1000·σ, and latents are maps."""

    backbone = "sd3"


class Flux(FlowDialect):
    """Flux.1: timestep σ, and latents are packed as 2 × 2 patches (B, rows · columns, 4C)."""

    backbone = "flux"
    scale = 1.0
    rounds = True

    def __init__(self) -> None:
        self.columns = 0

    def read_layout(self, layout: Any, latent: Tensor) -> None:
        """See `Dialect`. Copies the patches' positions to the host, once per run."""
        if layout is None:
            raise HostError("The denoiser was called without img_ids; a policy that reads the latent needs them.")
        self.columns = count_columns(layout, latent.shape[1])

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
