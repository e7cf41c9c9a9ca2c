"""The line of σ, cut into pieces: the points of a grid, and what lies between them.

A run of which the host learns only at the end where it was evaluated keeps the numbers of pieces: they say which
evaluation decided each step (`deciding`). Where all decisions are known before a run, so is t* on every piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import NamedTuple

from torch import Tensor

from .decisions import Decision
from .equations import same_range
from .parts import Stretch


class Place(NamedTuple):
    """A piece, up to its end, which it holds."""

    end: float
    step: int  # k; K, one more than the last, where there is none: σ is 0
    on_grid: bool  # whether σ is t_k, up to rounding


def places(grid: Sequence[float]) -> list[Place]:
    """The pieces of the grid t_0 > … > t_K, rising; the last one has no end.

    σ ≤ 0; then, from the last step to the first, what lies below t_k and is no other point, and t_k; what lies above.
    """
    last = len(grid) - 2
    found = [Place(0.0, last + 1, False)]
    for k in range(last, -1, -1):
        low, high = same_range(grid[k])
        found += [Place(max(low, found[-1].end), k, False), Place(high, k, True)]
    return [*found, Place(inf, 0, False)]


def deciding(where: Sequence[Place], part: Stretch, evaluations: Iterable[tuple[int, bool]]) -> list[int | None]:
    """Which evaluation decided each step of a run: the first one in it; None for a step without one.

    evaluations: the place of each, in order, and whether the denoiser was asked there; a step at which a cache always
    answered in its place has none. A grid that starts again after its last step (one block of a video after another)
    is a new run.
    """
    count = where[0].step
    found: list[int | None] = [None] * count
    now, asked_at = -1, -1
    first, stop = part
    for evaluation, (number, asked) in enumerate(evaluations):
        place = where[number]
        if place.step == count:
            continue
        if place.step == first and place.on_grid and now == stop - 1 > first:
            found = [None] * count
        now = place.step
        if found[now] is None:
            found[now] = evaluation
        if asked:
            asked_at = now
        elif now != asked_at:
            found[now] = None
    return found


class Told(NamedTuple):
    """What is told on a piece: t* = point + slope·σ. The velocity is scaled by ω."""

    point: float = 0.0
    slope: float = 1.0
    omega: float = 1.0


class Foretold:
    """The pieces of a run whose decisions are all known. Off the grid t* has limits, and more pieces: see `_held`."""

    def __init__(
        self, grid: Sequence[float], part: Stretch, decisions: Sequence[Decision], held: tuple[float, float]
    ) -> None:
        """decisions: of every step of the grid, made without a state. held: the limits of t* off the grid."""
        self.decisions, self._part = decisions, part
        self.places: list[Place] = []
        self.told: list[Told] = []
        begin = -inf
        for place in places(grid):
            for end, told in self._told_on(place, held):
                if min(end, place.end) > begin:
                    begin = min(end, place.end)
                    self.places.append(place._replace(end=begin))
                    self.told.append(told)
        self.edges = [place.end for place in self.places[:-1]]

    @property
    def ahead(self) -> list[float]:
        """t* at the grid's own points, of the steps that deviate."""
        pairs = zip(self.places, self.told, strict=True)
        return [told.point for place, told in pairs if place.on_grid and told.slope == 0]

    def made(self, evaluations: Iterable[tuple[int, bool]]) -> list[Decision | None]:
        """The decisions that a run has made, None for the other steps. evaluations: see `deciding`."""
        found = deciding(self.places, self._part, evaluations)
        return [None if n is None else decision for n, decision in zip(found, self.decisions, strict=True)]

    def _told_on(self, place: Place, held: tuple[float, float]) -> list[tuple[float, Told]]:
        """What is told from the beginning of a place on, and up to which σ."""
        if place.step == len(self.decisions):
            return [(place.end, Told())]
        decision = self.decisions[place.step]
        rho, omega = _number(decision.rho), _number(decision.omega)
        if rho == 1:
            return [(place.end, Told(omega=omega))]
        if place.on_grid:
            return [(place.end, Told(_number(decision.t_star), 0.0, omega))]
        return [(end, Told(point, slope, omega)) for end, point, slope in _held(rho, *held)]


def _held(rho: float, low: float, high: float) -> list[tuple[float, float, float]]:
    """ρ·σ clamped to [min(σ, low), max(σ, high)] (`held_timestep`), as (end, point, slope), rising."""
    if rho < 1:  # σ up to the lower limit, then the limit, then ρ·σ
        return [(low, 0.0, 1.0), (low / rho if rho > 0 else inf, low, 0.0), (inf, 0.0, rho)]
    return [(high / rho, 0.0, rho), (high, high, 0.0), (inf, 0.0, 1.0)]  # ρ·σ, then the upper limit, then σ


def _number(value: float | Tensor) -> float:
    assert not isinstance(value, Tensor), "decided without a state"
    return value
