"""How a denoiser of diffusers is spoken to: its clock, its prompt, the layout of its latents, what it predicts.

A dialect is one model family's; `families` knows which one a pipeline speaks. Times are on the unit line of
`retiming.clock`: 1 is noise, 0 the image, and for a flow model u is σ.
"""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True)
class Exact:
    """How a timestep reaches a model without being rounded."""

    timestep: Tensor  # (n,), the one that the model really uses in this call
    kept: Callable[[Tensor], Tensor]  # from what the denoiser is told to a tensor that the model does not round


class Dialect(Protocol):
    """What differs between model families."""

    backbone: str  # the family's name in policy files
    part: str  # the pipeline's attribute that holds the denoiser
    argument: str  # the denoiser's argument that is the timestep
    note: str  # what a reader of a trace must know of its time; empty for σ

    def told(self, unit: Value) -> Value:
        """What the denoiser is told for u."""

    def exact(self, timestep: Tensor, call: Call, compiled: bool) -> Exact:
        """For a model that casts its timestep to the dtype of the latent; see `Exact`."""

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


class Maps:
    """What dialects share whose latents are maps, and whose denoiser uses its timestep as it is told."""

    def exact(self, timestep: Tensor, call: Call, compiled: bool) -> Exact:  # noqa: ARG002 - the protocol's signature
        return Exact(timestep, lambda told: told)

    def conditional(self, prompts: TextCondition, batch: int) -> TextCondition:
        return conditional(prompts, batch)

    def read_layout(self, layout: Any, latent: Tensor) -> None:
        pass

    def to_map(self, latent: Tensor) -> Tensor:
        return latent

    def from_map(self, latent: Tensor) -> Tensor:
        return latent


def conditional(stacked: TextCondition, batch: int, part: int = 1) -> TextCondition:
    """The prompt's own rows of what the denoiser was called with; see `conditional_rows`."""
    rows = (stacked.context, stacked.pooled)
    return TextCondition(*(None if each is None else conditional_rows(each, batch, part) for each in rows))


def conditional_rows(stacked: Tensor, batch: int, part: int = 1) -> Tensor:
    """The conditional ones of the rows of a call, for a latent of `batch` samples. HostError where they do not fit.

    Guidance stacks [unconditional, conditional], perturbed attention adds a third part or repeats the conditional one:
    wherever there are several parts, the second is conditional (part 1), but for families that stack them otherwise.
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
    return stacked[part * batch : (part + 1) * batch]
