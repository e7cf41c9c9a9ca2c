"""Ways of sampling and how they are judged: what search and evaluation measure, paired by prompt and noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import AsyncDiffError
from ...policies import Policy
from ...retiming.settings import Retiming
from ...retiming.trace import Trace
from ...rewards.catalogue import CLEAN, RESIDUAL_NOISE
from ...rewards.composite import better_is_more
from ..distributed import Processes
from ..studio import Scorer, Studio, joined, noise_of, scored

GAUGE = "noise gauge"
"""The residual noise of every image that is measured, whatever judges."""

OBJECTS, BACKGROUND, OBJECT_MSE = "objects", "background", "object mse"
DETAIL, DETAIL_ERROR = "detail", "detail error"
APART = (OBJECTS, BACKGROUND, DETAIL, DETAIL_ERROR, OBJECT_MSE)
"""Values of every image that are reported beside the metrics; no gain counts them."""

LEAST_NOISE = 0.25
"""8-bit levels: the least σ of whatever measures noise, since nobody sees less."""

NOISE_METRICS = (RESIDUAL_NOISE, CLEAN)
"""The metrics that measure noise in 8-bit levels: the gauge, and what the embedded judge makes of it."""

Features = Callable[[Tensor], Tensor]
"""Images (n, 3, H, W) → features (n, d), for a distance between sets of images."""


class MeasureError(AsyncDiffError):
    """Images cannot be compared by these scores."""


@dataclass(frozen=True)
class Arm:
    """One way of sampling: a row of a table."""

    name: str
    steps: int
    policy: Policy | None = None  # None: the synchronous sampler
    retiming: Retiming = field(default_factory=Retiming)
    label: str = ""  # the policy that it belongs to, where several arms share one
    variant: str = ""  # what else is different about it
    solver: str = ""  # who makes the steps; "": the measurer's own studio


@dataclass(frozen=True)
class Measured:
    """What was measured on n images of an arm, in the order of its prompts."""

    scores: dict[str, Tensor]  # (n,) fp32 by metric, GAUGE, and what is reported apart
    deviation: Tensor  # (n, K), D as decided
    seconds: Tensor  # (n,), of rendering
    images: Tensor  # uint8 (m, 3, H, W) of those that were to be kept, or (m, F, 3, H, W)
    features: Tensor  # (n, d), or (n, 0)

    @classmethod
    def join(cls, parts: Sequence[Measured]) -> Measured:
        """Several batches as one."""
        columns = {name: [getattr(part, name) for part in parts] for name in ("deviation", "seconds", "features")}
        images = [part.images for part in parts if len(part.images)] or [parts[0].images]
        return cls(
            joined([part.scores for part in parts]),
            images=torch.cat(images),
            **{name: torch.cat(column) for name, column in columns.items()},
        )

    @property
    def metrics(self) -> list[str]:
        """The scorer's metrics."""
        return [name for name in self.scores if name != GAUGE and name not in APART]


@dataclass(frozen=True)
class Measurer:
    """A studio and a scorer. The work is split over the processes in batches that do not depend on their number."""

    studio: Studio
    scorer: Scorer
    batch: int = 16  # images in one run of the model
    processes: Processes = field(default_factory=Processes.current)
    features: Features | None = None
    keep: int = 0  # images of the first prompts that are kept
    on_images: Callable[[int], Any] = lambda count: None  # noqa: ARG005 - called with the number just finished
    apart: Scorer | None = None  # values of `APART`
    others: Mapping[str, Studio] = field(default_factory=dict)  # studios of other solvers, for arms that name one

    def studio_of(self, arm: Arm) -> Studio:
        """The studio that renders an arm. Raises MeasureError for a solver that there is no studio of."""
        if arm.solver and arm.solver not in self.others:
            raise MeasureError(f"There is no studio with the solver {arm.solver} for the arm {arm.name!r}.")
        return self.others[arm.solver] if arm.solver else self.studio

    def measure(self, arms: Sequence[Arm], prompts: Sequence[str], seeds: Sequence[int]) -> list[Measured]:
        """One image for each (prompt, seed) and arm. Every process gets all results. Raises MeasureError.

        The arms of one batch follow each other: they start alike, and a studio may evaluate their first step once.
        """
        if not prompts:
            raise MeasureError("There are no prompts to judge on; give one or more.")
        parts = self.parts(len(prompts))
        done = self.work([(arm, part) for part in parts for arm in arms], prompts, seeds)
        return [Measured.join(done[n :: len(arms)]) for n in range(len(arms))]

    def parts(self, count: int) -> list[range]:
        """The numbers of the prompts of each batch."""
        return [range(start, min(start + self.batch, count)) for start in range(0, count, self.batch)]

    def work(self, jobs: Sequence[tuple[Arm, range]], prompts: Sequence[str], seeds: Sequence[int]) -> list[Measured]:
        """Batches of arms, in the order of the jobs, each made by one process."""

        def mine() -> list[Measured]:
            return [self._batch(arm, part, prompts, seeds) for arm, part in self.processes.share(jobs)]

        return [result for everybody in self.processes.run_everywhere(mine) for result in everybody]

    def _batch(self, arm: Arm, part: range, prompts: Sequence[str], seeds: Sequence[int]) -> Measured:
        asked, noises = [prompts[n] for n in part], [seeds[n] for n in part]
        began = time.perf_counter()
        rendering = self.studio_of(arm).render(asked, noises, arm.policy, arm.retiming, steps=arm.steps)
        seconds = torch.full((len(part),), (time.perf_counter() - began) / len(part))
        scores = scored(self.scorer, rendering.images, asked)
        _check(scores, asked)
        apart = scored(self.apart, rendering.images, asked) if self.apart else {}
        kept = rendering.images[: max(0, self.keep - part.start)]
        self.on_images(len(part))
        return Measured(
            {**scores, GAUGE: noise_of(rendering.images), **apart},
            _deviations(rendering.trace, len(part), arm.steps),
            seconds,
            (kept.clamp(0, 1) * 255).round().to(torch.uint8),
            self.features(rendering.images) if self.features else torch.zeros(len(part), 0),
        )


@dataclass(frozen=True)
class GainScale:
    """What a difference is worth: each metric in its own standard deviation σ, weighed as in Eq 16."""

    std: Mapping[str, float]  # σ by metric
    weights: Mapping[str, float] = field(default_factory=dict)  # 1 where not given

    @classmethod
    def between_noises(cls, first: Measured, second: Measured, weights: Mapping[str, float]) -> GainScale:
        """σ between two images of the same prompt from different noises, over all prompts.

        That is the spread that a GRPO group with a noise per image has. Metrics without any spread are left out; but
        those of noise, which may lie below the level that counts until a policy raises it, have at least `LEAST_NOISE`.
        Raises MeasureError when no metric has any.
        """
        unknown = [name for name in weights if name not in first.metrics]
        if unknown:
            raise MeasureError(
                f"There is a weight for {unknown[0]}, but no scores; there are {', '.join(first.metrics)}."
            )
        change = {name: better(first.scores, name) - better(second.scores, name) for name in first.metrics}
        std = {name: float((values.square().mean() / 2).sqrt()) for name, values in change.items()}
        std = {name: value for name, value in std.items() if value > 0 and weights.get(name, 1.0)}
        if not std:
            raise MeasureError(
                "The metrics give the same score to every image, so that nothing can be compared; check the metrics."
            )
        noises = {name: 0.0 for name in NOISE_METRICS if name in change and weights.get(name, 1.0)}
        return cls.stored(with_noise_floor(noises | std), weights)

    @classmethod
    def stored(cls, std: Mapping[str, float], weights: Mapping[str, float]) -> GainScale:
        """σ that was measured before, so that gains of several runs have one unit."""
        kept = {name: value for name, value in std.items() if weights.get(name, 1.0)}
        return cls(kept, {name: weights.get(name, 1.0) for name in kept})

    def gain(self, arm: Measured, reference: Measured) -> Tensor:
        """Σ w·(S − S_ref)/σ / Σ|w| for each prompt (n,), in float64; above 0 the arm is better."""
        return gain(arm.scores, reference.scores, self.std, self.weights)


def with_noise_floor(std: Mapping[str, float]) -> dict[str, float]:
    """σ by metric, with at least `LEAST_NOISE` for those that measure noise."""
    return {name: max(value, LEAST_NOISE) if name in NOISE_METRICS else value for name, value in std.items()}


def gain(
    scores: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    std: Mapping[str, float],
    weights: Mapping[str, float],
) -> Tensor:
    """Σ w·(S − S_ref)/σ / Σ|w| over the metrics of `weights`, for each prompt (n,), in float64."""
    total = sum(abs(weight) for weight in weights.values())
    parts = [w * (better(scores, m) - better(reference, m)) / std[m] for m, w in weights.items()]
    return torch.stack(parts).sum(0) / total


def better(scores: Mapping[str, Tensor], metric: str) -> Tensor:
    """A metric's scores (n,), turned so that more is better, in float64."""
    return better_is_more(metric, scores[metric].double())


def _check(scores: Mapping[str, Tensor], prompts: Sequence[str]) -> None:
    for name, values in scores.items():
        if values.shape != (len(prompts),):
            raise MeasureError(
                f"The metric {name} gave {list(values.shape)} scores for {len(prompts)} images; one each."
            )
        bad = (~values.isfinite()).nonzero().flatten().tolist()
        if bad:
            raise MeasureError(f"The metric {name} gave {values[bad[0]]} for “{prompts[bad[0]]}”; nothing was decided.")


def _deviations(trace: Trace | None, count: int, steps: int) -> Tensor:
    """D (n, K) of a batch; 0 without a trace."""
    if trace is None:
        return torch.zeros(count, steps)
    rows = [torch.tensor(entry, dtype=torch.float32).expand(count) for entry in trace.proposed]
    return torch.stack(rows, 1)
