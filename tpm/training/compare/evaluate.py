"""What policies are worth: all arms on the same held-out prompts and noises, with paired bootstrap intervals."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...errors import AsyncDiffError
from ...policies import images_seen, solver_in
from ...retiming.solvers import EULER, evaluations
from ...rewards.catalogue import RESIDUAL_NOISE
from ...statistics import Interval, bootstrap, farther
from ..prompts import PromptOrder
from ..resume import resumed, save_state
from ..studio import derive
from .arms import OTHER_NOISE, SYNCHRONOUS, facts_of
from .energy_distance import EnergyDistance
from .measure import APART, DETAIL_ERROR, GAUGE, Arm, GainScale, Measured, Measurer

ROUND = 4  # batches of a process between two chances to save
SAVE_SECONDS = 60.0
ENERGY = "energy distance"
COLUMNS = ("deviation", "seconds", "images", "features")


class EvaluationError(AsyncDiffError):
    """An evaluation cannot be made."""


@dataclass(frozen=True)
class Comparison:
    """One value of an arm: its mean, and paired differences by the name of the arm they are to."""

    mean: float
    differences: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON."""
        return {"mean": self.mean, "differences": {name: asdict(value) for name, value in self.differences.items()}}


@dataclass(frozen=True)
class Result:
    """One row: an arm and what it is worth."""

    arm: Arm
    measured: Measured
    metrics: Mapping[str, Comparison]  # the scorer's, the noise gauge and, where there is one, the energy distance
    gain: Comparison  # see `GainScale`
    solver: str = EULER
    apart: Mapping[str, Comparison] = field(default_factory=dict)  # of `APART`; detail error as its mean's size
    opponent: str = SYNCHRONOUS  # the best arm of the table without a policy, of as many evaluations as "synchronous"

    @property
    def images_seen(self) -> int | None:
        """Images that the policy was made from; None where it does not say."""
        return 0 if self.arm.policy is None else images_seen(self.arm.policy)

    @property
    def evaluations(self) -> int:
        """Calls of the denoiser for an image."""
        return evaluations(self.solver, self.arm.steps)

    @property
    def mean_deviation(self) -> float:
        """D over the K − 1 actions and all images."""
        actions = self.measured.deviation[:, 1:]
        return float(actions.mean()) if actions.numel() else 0.0

    @property
    def seconds(self) -> float:
        """Seconds of rendering for one image."""
        return float(self.measured.seconds.mean())

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON."""
        d = self.measured.deviation
        return {
            "name": self.arm.name,
            "label": self.arm.label,
            "variant": self.arm.variant,
            "gamma": self.arm.retiming.gamma if self.arm.policy else 0.0,
            "evaluations": self.evaluations,
            "seconds_per_image": self.seconds,
            "mean_D": self.mean_deviation,
            "D": d.mean(0).tolist(),
            "D_sd": d.std(0, correction=0).tolist(),
            "gain": self.gain.to_dict(),
            "metrics": {name: value.to_dict() for name, value in self.metrics.items()},
            "facts": facts_of(self.arm),
            "solver": self.solver,
            "opponent": self.opponent,
            "apart": {name: value.to_dict() for name, value in self.apart.items()},
            "images_seen": self.images_seen,
        }


@dataclass
class Evaluation:
    """One evaluation. An arm that is finished is not rendered again when `run` goes on with it."""

    measurer: Measurer
    prompts: Sequence[str]
    folder: Path
    seed: int = 1234
    weights: Mapping[str, float] = field(default_factory=dict)  # by metric, for the gain; 1 where not given
    metrics: Mapping[str, str] = field(default_factory=dict)  # name → version of the weights
    yardstick: Mapping[str, float] | None = None  # σ by metric that was measured before; None: between two noises here
    real: Tensor | None = None  # features (n, R, d) of R true images of each prompt, where there are any
    on_arm: Callable[[Arm, Measured], Any] = lambda arm, measured: None  # noqa: ARG005
    save_seconds: float = SAVE_SECONDS

    def __post_init__(self) -> None:
        if len(self.prompts) < 2:
            raise EvaluationError(f"An evaluation needs two prompts or more, got {len(self.prompts)}.")
        self.fingerprint = PromptOrder(self.prompts, 0).fingerprint
        self.unit: Mapping[str, float] = {}  # σ of a gain of 1 by metric, as the latest run had it

    def run(self, arms: Sequence[Arm], against: Sequence[str] = (), resume: bool = False) -> list[Result]:
        """All arms, compared with the synchronous one and with those named.

        Raises EvaluationError, ResumeError, MeasureError, and whatever the studio and the scorer raise.
        """
        self._check(arms, against)
        measured: dict[str, Measured] = {}
        for arm in arms:
            measured[arm.name] = self._measure(arm, resume)
            self.on_arm(arm, measured[arm.name])
            if arm.name == OTHER_NOISE:
                self._gain_scale(measured)  # says now, not after hours, that the scores tell nothing apart
        solvers = {arm.name: solver_in(self.measurer.studio_of(arm).describe()) for arm in arms}
        scale = self._gain_scale(measured)
        self.unit = scale.std
        return compare(arms, measured, against, scale, self.real, solvers)

    def _check(self, arms: Sequence[Arm], against: Sequence[str]) -> None:
        names = [arm.name for arm in arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise EvaluationError(f"Two arms have the name {twice[0]!r}; give each policy a name of its own.")
        missing = [name for name in (SYNCHRONOUS, OTHER_NOISE, *against) if name not in names]
        if missing:
            raise EvaluationError(f"There is no arm {missing[0]!r} to compare with; there are {', '.join(names)}.")

    def _gain_scale(self, measured: Mapping[str, Measured]) -> GainScale:
        if self.yardstick:
            return GainScale.stored(self.yardstick, self.weights)
        return GainScale.between_noises(measured[SYNCHRONOUS], measured[OTHER_NOISE], self.weights)

    def _measure(self, arm: Arm, resume: bool) -> Measured:
        """An arm: from its file, from its file and the rest, or from nothing."""
        path, facts = self._path(arm), self._facts(arm)
        state = resumed(self.measurer.processes, path, facts) if resume else None
        done = [_measured_of(state)] if state else []
        left = self.measurer.parts(len(self.prompts))[state["parts"] if state else 0 :]
        seeds, size, saved = self._seeds(arm), ROUND * self.measurer.processes.size, time.monotonic()
        total = len(self.measurer.parts(len(self.prompts)))
        while left:
            done += self.measurer.work([(arm, part) for part in left[:size]], self.prompts, seeds)
            left = left[size:]
            if not left or time.monotonic() - saved > self.save_seconds:
                done, saved = [Measured.join(done)], time.monotonic()
                self._save(path, facts, done[0], total - len(left))
        return Measured.join(done)

    def _save(self, path: Path, facts: Mapping[str, Any], measured: Measured, parts: int) -> None:
        if self.measurer.processes.is_main:
            columns = {name: getattr(measured, name) for name in COLUMNS}
            save_state(path, facts, {"parts": parts, "scores": measured.scores, **columns})

    def _seeds(self, arm: Arm) -> list[int]:
        """One noise a prompt, the same in every arm but the one that says otherwise."""
        kind = "other" if arm.name == OTHER_NOISE else "noise"
        return [derive(self.seed, "evaluate", kind, number) for number in range(len(self.prompts))]

    def _path(self, arm: Arm) -> Path:
        short = re.sub(r"[^\w.+=-]+", "-", arm.name)[:48].strip("-")
        return self.folder / "arms" / f"{short}-{derive(arm.name) % 16**6:06x}.pt"

    def _facts(self, arm: Arm) -> dict[str, Any]:
        """What must be the same for an arm's file to be used."""
        measurer = self.measurer
        return {
            "arm": arm.name,
            **measurer.studio_of(arm).describe(),
            **facts_of(arm),
            "sigmas": measurer.studio_of(arm).sigma_grid(arm.steps),
            "prompts": self.fingerprint,
            "seed": self.seed,
            "batch": measurer.batch,
            "images kept": measurer.keep,
            "features": measurer.features is not None,
            **({"apart": True} if measurer.apart else {}),
            "metrics": dict(self.metrics),
        }


def compare(
    arms: Sequence[Arm],
    measured: Mapping[str, Measured],
    against: Sequence[str],
    gain_scale: GainScale,
    real: Tensor | None = None,
    solvers: Mapping[str, str] | None = None,
) -> list[Result]:
    """Means and paired differences of all arms, to the synchronous one, the best synchronous one, and those named.

    solvers: by arm; Euler where nothing is said.
    """
    solver_of = {arm.name: (solvers or {}).get(arm.name, EULER) for arm in arms}
    gains = {arm.name: gain_scale.gain(measured[arm.name], measured[SYNCHRONOUS]) for arm in arms}
    opponent = _best_synchronous(arms, gains, solver_of)
    others = list(dict.fromkeys([SYNCHRONOUS, opponent, *against]))
    distance = EnergyDistance(real) if real is not None else None
    tables = {arm.name: distance.table(measured[arm.name].features) for arm in arms} if distance else {}
    results = []
    for arm in arms:
        shown = {name: measured[name] for name in (arm.name, *others)}
        gain = _comparison({name: gains[name] for name in shown}, arm.name)
        metrics, apart = _metrics(shown, arm.name), _apart(shown, arm.name)
        if distance:
            metrics[ENERGY] = Comparison(*distance.compare({name: tables[name] for name in shown}, arm.name))
        results.append(Result(arm, measured[arm.name], metrics, gain, solver_of[arm.name], apart, opponent))
    return results


def _best_synchronous(arms: Sequence[Arm], gains: Mapping[str, Tensor], solvers: Mapping[str, str]) -> str:
    """The name of the strongest opponent: the most gain without a policy, among those of equal cost."""
    calls = {arm.name: evaluations(solvers[arm.name], arm.steps) for arm in arms}
    equals = [arm.name for arm in arms if arm.policy is None and calls[arm.name] == calls[SYNCHRONOUS]]
    return max((name for name in equals if name != OTHER_NOISE), key=lambda name: float(gains[name].mean()))


def _metrics(measured: Mapping[str, Measured], name: str) -> dict[str, Comparison]:
    """The metrics of one arm, compared with the other arms."""
    metrics = measured[name].metrics
    return {
        metric: _comparison({other: found.scores[metric] for other, found in measured.items()}, name)
        for metric in (metrics if RESIDUAL_NOISE in metrics else [*metrics, GAUGE])
    }


def _apart(measured: Mapping[str, Measured], name: str) -> dict[str, Comparison]:
    """What is reported beside the metrics; an error of either sign is as far from the truth as its mean is from 0."""
    compared = {}
    for metric in [metric for metric in APART if metric in measured[name].scores]:
        values = {other: found.scores[metric] for other, found in measured.items()}
        compared[metric] = (_distance if metric == DETAIL_ERROR else _comparison)(values, name)
    return compared


def _distance(values: Mapping[str, Tensor], name: str) -> Comparison:
    """How far the mean error of one arm is from 0, and how much farther than that of each other arm."""
    own = np.asarray(values[name].double())
    others = {other: np.asarray(value.double()) for other, value in values.items() if other != name}
    return Comparison(abs(float(own.mean())), {other: farther(own, value) for other, value in others.items()})


def _comparison(values: Mapping[str, Tensor], name: str) -> Comparison:
    """The mean of one arm, and its paired differences to the others."""
    own = values[name].double()
    others = {other: value.double() for other, value in values.items() if other != name}
    return Comparison(float(own.mean()), {other: _bootstrap(own - value) for other, value in others.items()})


def _bootstrap(difference: Tensor) -> Interval:
    return bootstrap(np.asarray(difference))


def _measured_of(state: Mapping[str, Any]) -> Measured:
    return Measured(state["scores"], **{name: state[name] for name in COLUMNS})
