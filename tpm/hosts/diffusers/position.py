"""Where a run is in its scheduler's grid, found without making the host wait for the device at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import HostError
from .dialects import Dialect


class Position:
    """Follows one scheduler through its runs. A scheduler that steps knows its index; an own loop's is looked up.

    The grid is copied to the host once per run. After that the host reads nothing from the device, unless a loop does
    not call the scheduler's `step`, or the scheduler keeps no index (DDIM, whose own step reads the timestep as well).
    """

    def __init__(self, scheduler: Any, dialect: Dialect) -> None:
        self._scheduler, self._dialect = scheduler, dialect
        self._run: Tensor | None = None  # the scheduler's timesteps of the current run; another object is another run
        self._points: list[float] = []  # u of each evaluation, and the end
        self._times: list[float] = []  # the scheduler's timesteps on the host
        self._index = 0
        self._stepped = False  # whether a step has followed the latest evaluation

    @property
    def index(self) -> int:
        """The latest evaluation's place in the scheduler's grid."""
        return self._index

    @property
    def unit(self) -> float:
        """U of the latest evaluation; σ of a flow model."""
        return self._points[self._index]

    @property
    def ahead(self) -> list[float]:
        """The grid from the latest evaluation on."""
        return self._points[self._index :]

    @property
    def evaluated(self) -> bool:
        """Whether the denoiser was called on the scheduler's present grid."""
        return self._run is self._scheduler.timesteps

    def evaluate(self, timestep: Tensor) -> bool:
        """The denoiser is called with this `timestep` (n,). Returns whether a new run begins with it.

        A run begins on another grid, and wherever an index comes again that had already been stepped from.
        """
        fresh = not self.evaluated
        index = None if fresh else getattr(self._scheduler, "step_index", None)
        if fresh or index is None or index >= len(self._points) - 1:
            index = self._look_up(timestep, fresh)
        begins = fresh or index < self._index or (self._stepped and index == self._index)
        self._run, self._index, self._stepped = self._scheduler.timesteps, index, False
        return begins

    def step(self) -> bool:
        """The scheduler steps. Returns whether an evaluation came before it."""
        seen, self._stepped = self.evaluated and not self._stepped, True
        return seen

    def _look_up(self, timestep: Tensor, fresh: bool) -> int:
        if fresh:
            sigmas, self._times, told = read_grid(self._scheduler, timestep)
            self._points = self._dialect.levels(sigmas, self._times)
        else:
            told = float(timestep[0])
        told, claims = self._dialect.scheduler_time(told), claimed(self._scheduler) if fresh else []
        check_driven(self._scheduler, self._times, told, rounding(timestep, told))
        return nearest(self._times, told, rounding(timestep, told), claims)


def grid_index(scheduler: Any, timestep: Tensor) -> int:
    """Where a scheduler is in its grid, as it would find out itself. timestep: (n,), 0 … 1000."""
    claims = claimed(scheduler)
    return claims[0] if claims else nearest(scheduler.timesteps.tolist(), float(timestep[0]))


def claimed(scheduler: Any) -> list[int]:
    """Where a scheduler says that it is: its own index, then the one that its pipeline told it to begin at."""
    indices = (getattr(scheduler, name, None) for name in ("step_index", "begin_index"))
    return [int(index) for index in indices if index is not None]


def nearest(times: list[float], told: float, tolerance: float = 0.0, claims: Sequence[int] = ()) -> int:
    """The index of the timestep nearest to `told`; a claimed one where that is within the tolerance."""
    agreed = (claim for claim in claims if claim < len(times) and abs(times[claim] - told) <= tolerance)
    return next(agreed, min(range(len(times)), key=lambda index: abs(times[index] - told)))


def read_grid(scheduler: Any, timestep: Tensor) -> tuple[list[float], list[float], float]:
    """The scheduler's σ (none where it keeps none), its timesteps, and what the denoiser is told now.

    In one transfer where they share a device.
    """
    parts = [getattr(scheduler, "sigmas", timestep[:0]), scheduler.timesteps, timestep[:1]]
    if len({part.device for part in parts}) > 1:
        sigmas, times, told = ([float(value) for value in part.tolist()] for part in parts)
    else:
        values: list[float] = torch.cat([part.float() for part in parts]).tolist()
        count = len(parts[0])
        sigmas, times, told = values[:count], values[count:-1], values[-1:]
    return sigmas, times, told[0]


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
