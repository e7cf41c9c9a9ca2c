"""What a run is told at every σ, where all its decisions are known before it begins: the line of σ, cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import NamedTuple

from torch import Tensor

from .decisions import Decision
from .equations import same_range
from .parts import Stretch


class Piece(NamedTuple):
    """A piece of the line of σ, up to its end. There t* = point + slope·σ."""

    end: float
    step: int  # k; K, one more than the last, where there is none: σ is 0
    on_grid: bool = False  # whether σ is t_k, up to rounding
    point: float = 0.0
    slope: float = 1.0
    omega: float = 1.0


class Pieces:
    """The pieces of a run, rising; each holds its end, and the last one has none.

    σ ≤ 0; then, from the last step to the first, what lies below t_k and is no other point, and t_k; what lies above.
    Off the grid t* = ρ_k·σ has limits (`held_timestep`): a piece of its own where one holds.
    """

    def __init__(
        self, grid: Sequence[float], part: Stretch, decisions: Sequence[Decision], held: tuple[float, float]
    ) -> None:
        """decisions: of every step of the grid, made without a state. held: the limits of t* off the grid."""
        self.decisions, self._part, self._held = decisions, part, held
        last = len(decisions) - 1
        self.pieces = [Piece(0.0, last + 1)]
        for k in range(last, -1, -1):
            low, high = same_range(grid[k])
            self._add_between(k, low)
            self._add_point(k, high)
        self._add_between(0, inf)
        self.edges = [piece.end for piece in self.pieces[:-1]]

    def _add_point(self, k: int, end: float) -> None:
        decision = self.decisions[k]
        told = (0.0, 1.0) if decision.rho == 1 else (_number(decision.t_star), 0.0)
        self.pieces.append(Piece(end, k, True, *told, _number(decision.omega)))

    def _add_between(self, k: int, end: float) -> None:
        """ρ·σ clamped to [min(σ, low), max(σ, high)], from the end of the latest piece on."""
        rho, omega = _number(self.decisions[k].rho), _number(self.decisions[k].omega)
        low, high = self._held
        if rho < 1:  # σ up to the lower limit, then the limit, then ρ·σ
            parts = [(low, 0.0, 1.0), (low / rho if rho > 0 else inf, low, 0.0), (inf, 0.0, rho)]
        else:  # ρ·σ up to the upper limit, then the limit, then σ
            parts = [(high / rho, 0.0, rho), (high, high, 0.0), (inf, 0.0, 1.0)]
        for stop, point, slope in parts if rho != 1 else [(inf, 0.0, 1.0)]:
            if self.pieces[-1].end < min(stop, end):
                self.pieces.append(Piece(min(stop, end), k, False, point, slope, omega))

    def made(self, evaluations: Iterable[tuple[int, bool]]) -> list[Decision | None]:
        """The decisions that a run has made, None for the other steps.

        evaluations: the piece of each, in order, and whether the denoiser was asked there; a step at which a cache
        always answered in its place counts as none. A grid that starts again after its last step (one block of a video
        after another) is a new run.
        """
        count = len(self.decisions)
        made, now, asked_at = [False] * count, -1, -1
        first, stop = self._part
        for number, asked in evaluations:
            piece = self.pieces[number]
            step = piece.step
            if step == count:
                continue
            if step == first and piece.on_grid and now == stop - 1 > first:
                made = [False] * count
            now, made[step] = step, True
            if asked:
                asked_at = step
            elif step != asked_at:
                made[step] = False
        return [decision if wanted else None for decision, wanted in zip(self.decisions, made, strict=True)]


def _number(value: float | Tensor) -> float:
    assert not isinstance(value, Tensor), "decided without a state"
    return value
