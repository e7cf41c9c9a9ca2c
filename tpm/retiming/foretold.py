"""Runs whose decisions are all known before they begin, by a policy that reads no state: each step only looks one up.

The same rules and answers as the `Retimer`, without what it keeps for policies that read a state. `ForetoldRun` finds
the piece (`pieces`) of a σ that is a number, `ForetoldOnDevice` that of a σ on a device, which the host learns only at
the end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import inf

import torch
from torch import Tensor

from .contract import Policy
from .decisions import Decision
from .evaluation import Seen
from .on_device import DeviceCourse
from .pieces import Piece
from .retimer import Retimer
from .settings import Retiming
from .trace import Trace


class ForetoldRun:
    """One run where σ is a number."""

    def __init__(self, retimer: Retimer) -> None:
        """`retimer` has begun, and its policy reads no state."""
        self._retimer, self._known = retimer, retimer.foretell()
        self._edges, self._pieces = self._known.edges, self._known.pieces
        self._numbers: list[int] = []  # of the pieces, one for each evaluation
        self._withdrawn: set[int] = set()  # evaluations
        self._piece = Piece(inf, -1)

    @property
    def ahead(self) -> list[float]:
        """t* at the grid's own points, of the steps that deviate."""
        return [piece.point for piece in self._pieces if piece.on_grid and piece.slope == 0]

    @property
    def step(self) -> int:
        """See `Course`."""
        return self._piece.step

    @property
    def decision(self) -> Decision:
        """See `Course`."""
        return self._known.decisions[self._piece.step]

    def condition(self, sigma: float) -> float:
        """See `Course`."""
        number = bisect_left(self._edges, sigma)
        self._numbers.append(number)
        piece = self._piece = self._pieces[number]
        return piece.point + piece.slope * sigma

    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:  # noqa: ARG002
        """See `Course`."""
        omega = self._piece.omega
        return denoised if omega == 1 else torch.lerp(x, denoised, omega)

    def withdraw(self) -> None:
        """See `Course`."""
        self._withdrawn.add(len(self._numbers) - 1)

    def settle(self) -> None:
        """See `Course`."""
        self._retimer.settle(self._known.made(_asked(self._numbers, self._withdrawn)))


class ForetoldOnDevice(DeviceCourse):
    """One run where σ is on a device: the piece is found there, and the host is told at the end which ones it were."""

    def __init__(self, retimer: Retimer, like: Tensor) -> None:
        """`retimer` has begun, and its policy reads no state. like: a latent of the run."""
        super().__init__(like)
        self._retimer, self._known = retimer, retimer.foretell()
        self._edges = self.upload(self._known.edges)
        self._rows = self.upload([(piece.point, piece.slope, piece.omega) for piece in self._known.pieces])
        self._numbers: list[Tensor] = []  # of the pieces, (1,) each, one for each evaluation
        self._withdrawn: set[int] = set()  # evaluations
        self._omega: Tensor | None = None
        self._scales = any(decision.omega != 1 for decision in self._known.decisions)

    def condition(self, sigma: Tensor) -> Tensor:
        """See `DeviceCourse`."""
        number = torch.bucketize(sigma, self._edges)
        self._numbers.append(number)
        point, slope, self._omega = self._rows.index_select(0, number).unbind(1)
        return torch.addcmul(point, slope, sigma)

    def observe(self, x: Tensor, denoised: Tensor, seen: Seen | None = None) -> Tensor:  # noqa: ARG002
        """See `DeviceCourse`."""
        if not self._scales:
            return denoised
        assert self._omega is not None, "condition comes first"
        return torch.lerp(x, denoised, self._omega.to(x))

    def withdraw(self) -> None:
        """See `DeviceCourse`."""
        self._withdrawn.add(len(self._numbers) - 1)

    def report(self) -> Tensor:
        """See `DeviceCourse`."""
        return self._numbers[-1]

    def read_report(self, report: Tensor) -> tuple[int, Decision] | None:
        """See `DeviceCourse`."""
        step = self._known.pieces[int(report)].step
        return (step, self._known.decisions[step]) if step < len(self._known.decisions) else None

    def settle(self) -> None:
        """See `DeviceCourse`."""
        numbers = torch.cat(self._numbers).tolist() if self._numbers else []
        self._retimer.settle(self._known.made(_asked(numbers, self._withdrawn)))


def rehearse(
    policy: Policy, retiming: Retiming, sigmas: Sequence[float], whole: Sequence[float] | None = None
) -> Trace:
    """The trace that a run on this grid is going to have, for a policy that needs no latent. whole: see `begin`."""
    retimer = Retimer(policy, retiming)
    retimer.begin(sigmas, whole=whole)
    for sigma in retimer.grid[retimer.part.first : retimer.part.stop]:
        retimer.condition(sigma)
    return retimer.trace


def _asked(numbers: Iterable[int], withdrawn: set[int]) -> Iterable[tuple[int, bool]]:
    return ((number, n not in withdrawn) for n, number in enumerate(numbers))
