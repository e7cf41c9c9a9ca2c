"""Sample the same prompts and seeds at several γ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, cat

from ...retiming.settings import Retiming
from ...retiming.solvers import EULER

if TYPE_CHECKING:
    from ...policies import Policy
    from ...retiming.trace import Trace

_T = TypeVar("_T")


@dataclass(frozen=True)
class Job:
    """One row of the panel."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Settings:
    """What all columns have in common. ``size`` is (width, height), None for the model's own."""

    steps: int
    cfg: float
    grid: str = "simple"
    size: tuple[int, int] | None = None
    negative: str = ""
    retiming: Retiming = field(default_factory=Retiming)  # how the policy is applied; each column has its own γ
    batch: int = 8
    solver: str = EULER  # the studio's


@dataclass
class Column:
    """All rows at one γ. ``traces`` has one entry per batch; ``scores`` maps a measurement to (rows,)."""

    gamma: float
    images: Tensor  # (rows, 3, H, W) in [0, 1]
    traces: list[Trace]
    seconds: float
    scores: dict[str, Tensor] = field(default_factory=dict)

    def mean_deviation(self) -> float:
        """D averaged over the steps that were decided (all but the first) and the rows."""
        values = [d for trace in self.traces for d in trace.mean_deviation()[1:]]
        return sum(values) / len(values) if values else 0.0


def sweep(
    studio: Any,
    jobs: Sequence[Job],
    policy: Policy,
    gammas: Sequence[float],
    settings: Settings,
    progress: Callable[..., None] | None = None,
) -> list[Column]:
    """One column per γ, from the same start noise. ``progress`` is called after every step of every batch."""
    return [_column(studio, jobs, policy, gamma, settings, progress) for gamma in gammas]


def batches(jobs: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """The jobs in runs of at most ``size``."""
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _column(
    studio: Any,
    jobs: Sequence[Job],
    policy: Policy,
    gamma: float,
    settings: Settings,
    progress: Callable[..., None] | None,
) -> Column:
    renderings = [
        studio.render(
            [job.prompt for job in part],
            [job.seed for job in part],
            policy,
            replace(settings.retiming, gamma=gamma),
            steps=settings.steps,
            guidance=settings.cfg,
            size=settings.size,
            negative=settings.negative,
            grid=settings.grid,
            progress=progress,
        )
        for part in batches(jobs, settings.batch)
    ]
    traces = [rendering.trace for rendering in renderings if rendering.trace is not None]
    images = cat([rendering.images for rendering in renderings])
    return Column(gamma, images, traces, sum(rendering.seconds for rendering in renderings))
