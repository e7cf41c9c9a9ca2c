"""Runs whose decisions are all known before they begin, by a policy that reads no state: each step only looks one up.

The same rules and answers as the `Retimer`, without what it keeps for policies that read a state. `ForetoldRun` finds
the piece (`pieces`) of a σ that is a number, `ForetoldOnDevice` that of a σ on a device, which the host learns only at
the end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from .contract import Policy
from .decisions import Decision
from .evaluation import Seen
from .on_device import DeviceCourse
from .pieces import Told
from .retimer import Retimer
from .settings import Retiming
from .trace import Trace


class ForetoldRun:
    """One run where σ is a number."""

    def __init__(self, retimer: Retimer) -> None:
        """`retimer` has begun, and its policy reads no state."""
        self._retimer, self._known = retimer, retimer.foretell()
        self._edges, self._told = self._known.edges, self._known.told
        self._numbers: list[int] = []  # of the pieces, one for each evaluation
        self._withdrawn: set[int] = set()  # evaluations
        self._now = Told()

    @property
    def ahead(self) -> list[float]:
        """t* at the grid's own points, of the steps that deviate."""
        return self._known.ahead

    @property
    def step(self) -> int:
        """See `Course`."""
        return self._known.places[self._numbers[-1]].step if self._numbers else -1

    @property
    def decision(self) -> Decision:
        """See `Course`."""
        return self._known.decisions[self.step]

    def condition(self, sigma: float) -> float:
        """See `Course`."""
        number = bisect_left(self._edges, sigma)
        self._numbers.append(number)
        self._now = now = self._told[number]
        return now.point + now.slope * sigma

    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:  # noqa: ARG002
        """See `Course`."""
        omega = self._now.omega
        return denoised if omega == 1 else torch.lerp(x, denoised, omega)

    def withdraw(self) -> None:
        """See `Course`."""
        self._withdrawn.add(len(self._numbers) - 1)

    def settle(self) -> None:
        """See `Course`."""
        asked = ((number, n not in self._withdrawn) for n, number in enumerate(self._numbers))
        self._retimer.settle(self._known.made(asked))


class ForetoldOnDevice(DeviceCourse):
    """One run where σ is on a device."""

    def __init__(self, retimer: Retimer, like: Tensor) -> None:
        """`retimer` has begun, and its policy reads no state. like: a latent of the run."""
        super().__init__(like)
        self._retimer, self._known = retimer, retimer.foretell()
        self._edges, self._told = self.upload(self._known.edges), self.upload(self._known.told)
        self._omega: Tensor | None = None
        self._scales = any(decision.omega != 1 for decision in self._known.decisions)

    def condition(self, sigma: Tensor) -> Tensor:
        """See `DeviceCourse`."""
        number = torch.bucketize(sigma, self._edges)
        self.numbers.append(number)
        point, slope, self._omega = self._told.index_select(0, number).unbind(1)
        return torch.addcmul(point, slope, sigma)

    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:  # noqa: ARG002
        """See `DeviceCourse`."""
        if not self._scales:
            return denoised
        assert self._omega is not None, "condition comes first"
        return torch.lerp(x, denoised, self._omega.to(x))

    def report(self) -> Tensor:
        """See `DeviceCourse`."""
        return self.numbers[-1]

    def read_report(self, report: Tensor) -> tuple[int, Decision] | None:
        """See `DeviceCourse`."""
        step = self._known.places[int(report)].step
        return (step, self._known.decisions[step]) if step < len(self._known.decisions) else None

    def settle(self) -> None:
        """See `DeviceCourse`."""
        self._retimer.settle(self._known.made(self.evaluations()))


def rehearse(
    policy: Policy, retiming: Retiming, sigmas: Sequence[float], whole: Sequence[float] | None = None
) -> Trace:
    """The trace that a run on this grid is going to have, for a policy that needs no latent. whole: see `begin`."""
    retimer = Retimer(policy, retiming)
    retimer.begin(sigmas, whole=whole)
    for sigma in retimer.grid[retimer.part.first : retimer.part.stop]:
        retimer.condition(sigma)
    return retimer.trace
