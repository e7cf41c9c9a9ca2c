"""Where a run lies on a longer grid: a part of a whole run, or the falling stretches of a grid that also rises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..errors import GridError
from .equations import check_grid, same_point

Grid = tuple[float, ...]


class Stretch(NamedTuple):
    """The steps first … stop − 1 of a grid, from its point `first` to its point `stop`."""

    first: int
    stop: int


def place(part: Grid, whole: Sequence[float] | None) -> tuple[Grid, Stretch]:
    """The grid of the whole run with this part in it, and where the part lies. None: the part is the whole run.

    A part may end at 0 before the whole run does (all noise is removed at once); the whole run then ends there.
    Raises GridError for a part that the whole run does not have.
    """
    if whole is None:
        return part, Stretch(0, len(part) - 1)
    grid = check_grid(whole)
    first = find(part[:-1], grid[:-1])
    if first is not None:
        stop = first + len(part) - 1
        if same_point(part[-1], grid[stop]):
            return grid, Stretch(first, stop)
        if part[-1] == 0:
            return (*grid[:stop], 0.0), Stretch(first, stop)
    raise GridError(
        f"This run goes from {part[0]:.4g} to {part[-1]:.4g} in {len(part) - 1} steps, and the whole run that was given"
        f" ({grid[0]:.4g} to {grid[-1]:.4g} in {len(grid) - 1} steps) has no such part: connect the SIGMAS before they"
        " are split, from the same scheduler, model and steps."
    )


def find(part: Sequence[float], grid: Sequence[float], same: Callable[[float, float], bool] = same_point) -> int | None:
    """Where in `grid` the points of `part` follow each other for the first time; None where they do not."""
    starts = range(len(grid) - len(part) + 1)
    return next((k for k in starts if all(map(same, part, grid[k : k + len(part)]))), None)


def rises(points: Sequence[float]) -> bool:
    """Whether a grid without repeats goes up anywhere, as restarts and unsampling do."""
    return any(later > earlier for earlier, later in pairwise(points))


def falling(points: Sequence[float]) -> list[Stretch]:
    """The stretches on which a grid without repeats falls, in order."""
    found: list[Stretch] = []
    for k, (here, following) in enumerate(pairwise(points)):
        if following > here:
            continue
        if found and found[-1].stop == k:
            found[-1] = Stretch(found[-1].first, k + 1)
        else:
            found.append(Stretch(k, k + 1))
    return found
