"""A run whose decisions are all known before it begins, by a policy that reads no state: each step only looks one up.

The same rules and answers as the `Retimer`, without what it keeps for policies that read a state. σ is a number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from .contract import Policy
from .decisions import Decision
from .equations import held_timestep, same_point
from .evaluation import Seen
from .retimer import Retimer
from .settings import Retiming
from .trace import Trace


class ForetoldRun:
    """One run; `retimer` has begun, and its policy reads no state."""

    def __init__(self, retimer: Retimer) -> None:
        self._retimer, self._grid = retimer, retimer.grid
        self._falling = [-t for t in retimer.grid[:-1]]
        self._decisions = retimer.foretell()
        self._made = [False] * len(self._decisions)
        self._observed = -1
        self.step = -1  # of the latest evaluation

    @property
    def decision(self) -> Decision:
        """What holds for the latest evaluation."""
        return self._decisions[self.step]

    def condition(self, sigma: float) -> float:
        """t* for the evaluation at σ; exactly σ where nothing deviates."""
        step = bisect_left(self._falling, -sigma)
        on_grid = step < len(self._falling) and same_point(sigma, self._grid[step])
        if not on_grid:
            step = max(step - 1, 0)
        first, stop = self._retimer.part
        if step == first and on_grid and self.step == stop - 1 > first:
            self._made = [False] * len(self._decisions)  # a new run: one block of a video after another
        self.step, self._made[step] = step, True
        decision = self._decisions[step]
        if decision.rho == 1:
            return sigma
        if on_grid:
            return _number(decision.t_star)
        lowest, highest = self._retimer.held_range
        return _number(held_timestep(decision.rho, sigma, t_start=highest, sigma_min=lowest))

    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:  # noqa: ARG002
        """Take in an evaluation of x; returns the denoised latent, with the velocity scaled by ω where it is not 1."""
        self._observed = self.step
        omega = self._decisions[self.step].omega
        return denoised if omega == 1 else torch.lerp(x, denoised, omega)

    def withdraw(self) -> None:
        """In place of `observe`: the denoiser was not asked."""
        if self.step != self._observed:
            self._made[self.step] = False

    def settle(self) -> None:
        """The run is over: hand what was decided to the retimer."""
        pairs = zip(self._decisions, self._made, strict=True)
        self._retimer.settle([decision if made else None for decision, made in pairs])


def rehearse(
    policy: Policy, retiming: Retiming, sigmas: Sequence[float], whole: Sequence[float] | None = None
) -> Trace:
    """The trace that a run on this grid is going to have, for a policy that needs no latent. whole: see `begin`."""
    retimer = Retimer(policy, retiming)
    retimer.begin(sigmas, whole=whole)
    for sigma in retimer.grid[retimer.part.first : retimer.part.stop]:
        retimer.condition(sigma)
    return retimer.trace


def _number(value: float | Tensor) -> float:
    assert not isinstance(value, Tensor), "decided without a state"
    return value
