"""How the steps of a run are found: a course stands between a host and its `Retimer`, with one set of calls for all.

A host asks `condition` for t* of an evaluation, shows what came out by `observe`, or says by `withdraw` that a cache
answered in the network's place, and calls `settle` at the end. It takes the course that costs it least.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from .contract import DevicePolicy
from .decisions import Decision
from .equations import Value
from .evaluation import Seen
from .foretold import ForetoldOnDevice, ForetoldRun
from .on_device import DeviceCourse, StateOnDevice
from .retimer import Retimer


class Course(Protocol):
    """One run, driven evaluation by evaluation where the host knows σ."""

    @property
    def step(self) -> int:
        """The step k of the latest evaluation, −1 before the first."""

    @property
    def decision(self) -> Decision:
        """What holds for the latest evaluation."""

    def condition(self, sigma: float) -> Value:
        """t* for the evaluation at σ (on the unit line of the model's clock); exactly σ where nothing deviates."""

    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:
        """Take in an evaluation of x (B, …); returns the denoised latent, with the velocity scaled by ω."""

    def withdraw(self) -> None:
        """In place of `observe`: the denoiser was not asked."""

    def settle(self) -> None:
        """The run is over: hand what was decided to the retimer."""


class StateRun:
    """A run by a policy that reads a state, where σ is a number: the retimer itself, in the calls of a course."""

    def __init__(self, retimer: Retimer) -> None:
        """`retimer` has begun."""
        self._retimer = retimer
        self._sigma = 0.0

    @property
    def step(self) -> int:
        """See `Course`."""
        return self._retimer.step

    @property
    def decision(self) -> Decision:
        """See `Course`."""
        return self._retimer.decision

    def condition(self, sigma: float) -> Value:
        """See `Course`."""
        self._sigma = sigma
        return self._retimer.condition(sigma)

    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:
        """See `Course`."""
        sigma, shown = seen or Seen(self._sigma, x)
        velocity = (x - denoised) / sigma
        scaled = self._retimer.observe(shown, self._sigma, velocity)
        return denoised if scaled is velocity else x - sigma * scaled

    def withdraw(self) -> None:
        """See `Course`."""
        self._retimer.withdraw()

    def settle(self) -> None:
        """The retimer knows it all."""


def course_of(retimer: Retimer) -> Course:
    """The course of a run that has begun, where the host knows σ without waiting."""
    return StateRun(retimer) if retimer.policy.needs_state else ForetoldRun(retimer)


def course_on_device(retimer: Retimer, like: Tensor) -> DeviceCourse | None:
    """The course of a run that has begun, where σ is on a device; None for a policy that only the host can ask.

    like: a latent (B, …) of the run.
    """
    if not retimer.policy.needs_state:
        return ForetoldOnDevice(retimer, like)
    return StateOnDevice(retimer, like) if isinstance(retimer.policy, DevicePolicy) else None
