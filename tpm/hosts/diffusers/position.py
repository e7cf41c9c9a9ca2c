"""Where a run is in its scheduler's grid, found without making the host wait for the device at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import HostError


class Position:
    """Follows one scheduler through its runs. A scheduler that steps knows its index; an own loop's is looked up.

    The grid is copied to the host once per run. After that the host reads nothing from the device, unless a loop does
    not call the scheduler's `step`.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._sigmas: Tensor | None = None  # the scheduler's σ of the current run; another object is another run
        self._points: list[float] = []  # the same on the host
        self._times: list[float] = []  # the scheduler's timesteps on the host
        self._index = 0
        self._stepped = False  # whether a step has followed the latest evaluation

    @property
    def sigma(self) -> float:
        """σ of the latest evaluation."""
        return self._points[self._index]

    @property
    def ahead(self) -> list[float]:
        """The grid from the latest evaluation on."""
        return self._points[self._index :]

    @property
    def evaluated(self) -> bool:
        """Whether the denoiser was called on the scheduler's present grid."""
        return self._sigmas is self._scheduler.sigmas

    def evaluate(self, timestep: Tensor, scale: float) -> bool:
        """The denoiser is called with this `timestep` = scale · σ (n,). Returns whether a new run begins with it.

        A run begins on another grid, and wherever an index comes again that had already been stepped from.
        """
        fresh = not self.evaluated
        index = None if fresh else self._scheduler.step_index
        if fresh or index is None or index >= len(self._points) - 1:
            index = self._look_up(timestep, scale, fresh)
        begins = fresh or index < self._index or (self._stepped and index == self._index)
        self._sigmas, self._index, self._stepped = self._scheduler.sigmas, index, False
        return begins

    def step(self) -> bool:
        """The scheduler steps. Returns whether an evaluation came before it."""
        seen, self._stepped = self.evaluated and not self._stepped, True
        return seen

    def _look_up(self, timestep: Tensor, scale: float, fresh: bool) -> int:
        if fresh:
            *grid, told = read_grid(self._scheduler, timestep)
            count = len(self._scheduler.sigmas)
            self._points, self._times = grid[:count], grid[count:]
        else:
            told = float(timestep[0])
        told, claims = told * 1000 / scale, claimed(self._scheduler) if fresh else []
        check_driven(self._scheduler, self._times, told, rounding(timestep, told))
        return nearest(self._times, told, rounding(timestep, told), claims)


def grid_index(scheduler: Any, timestep: Tensor) -> int:
    """Where a scheduler is in its grid, as it would find out itself. timestep: (n,), 0 … 1000."""
    claims = claimed(scheduler)
    return claims[0] if claims else nearest(scheduler.timesteps.tolist(), float(timestep[0]))


def claimed(scheduler: Any) -> list[int]:
    """Where a scheduler says that it is: its own index, then the one that its pipeline told it to begin at."""
    return [int(index) for index in (scheduler.step_index, scheduler.begin_index) if index is not None]


def nearest(times: list[float], told: float, tolerance: float = 0.0, claims: Sequence[int] = ()) -> int:
    """The index of the timestep nearest to `told`; a claimed one where that is within the tolerance."""
    agreed = (claim for claim in claims if claim < len(times) and abs(times[claim] - told) <= tolerance)
    return next(agreed, min(range(len(times)), key=lambda index: abs(times[index] - told)))


def read_grid(scheduler: Any, timestep: Tensor) -> list[float]:
    """The scheduler's σ and timesteps and what the denoiser is told now, in one transfer where they share a device."""
    parts = [scheduler.sigmas, scheduler.timesteps, timestep[:1]]
    if len({part.device for part in parts}) > 1:
        return [float(value) for part in parts for value in part.tolist()]
    values: list[float] = torch.cat([part.float() for part in parts]).tolist()
    return values


def check_driven(scheduler: Any, times: list[float], told: float, tolerance: float) -> None:
    """Raise HostError when the denoiser is told no timestep of this scheduler: then another one drives the run."""
    unset = getattr(scheduler, "num_inference_steps", None) is None  # its grid is that of the training
    if unset or min(abs(time - told) for time in times) > tolerance:
        raise HostError(
            f"The denoiser was called at the timestep {told:.4g} of 1000, which the scheduler of the watched pipeline"
            " did not make; open the context on the pipeline whose scheduler drives the run."
        )


def rounding(timestep: Tensor, told: float) -> float:
    """How far a timestep of 0 … 1000 can be off that was cast to its dtype and divided by 1000."""
    eps = torch.finfo(timestep.dtype if timestep.is_floating_point() else torch.float32).eps
    return 1.5 * eps * told + 1e-3
