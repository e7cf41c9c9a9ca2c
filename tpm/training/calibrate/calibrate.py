"""Calibration: two numbers that give a run of few steps the spectrum of one of many steps. Experimental.

D = a everywhere and D = last at the final evaluation. From the start noises of P prompts the synchronous sampler makes
latents in M steps, the teacher; then (a, last) are moved by Gauss and Newton's method until the asynchronous run of K
steps has its spectrum. Means over prompts are compared, not pairs: a run of few steps ends elsewhere than its teacher,
and bringing it there does not make better pictures. Nothing is decoded, and no reward is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...errors import AsyncDiffError
from ...files import write_json
from ...policies import Curve, Policy, save_policy, solver_in
from ...retiming.equations import LIFTED_BOUND
from ...retiming.settings import Retiming
from ...retiming.solvers import evaluations
from ..prompts import PromptOrder
from ..resume import load_state, save_state
from ..studio import ConfiguredModel, derive
from .spectrum import BANDS, band_spectrum

STATE, REPORT, POLICY = "state.pt", "calibration.json", "calibrated.json"
START, STEP, MOST_MOVE, DAMPING, ROUNDS = (0.5, 0.0), 0.25, 0.5, 1e-4, 4
LEAST_STD = 1e-6  # of a band over prompts: below, all latents are alike
NAME = "calibrated"

Point = tuple[float, float]  # (a, last)


class CalibrationError(AsyncDiffError):
    """A calibration cannot be made, or found nothing."""


class LatentStudio(ConfiguredModel, Protocol):
    """One that gives latents."""

    def latents(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        policy: Policy | None = None,
        retiming: Retiming | None = None,
        *,
        steps: int,
    ) -> Tensor:
        """The final latents (n, C, [T,] H, W), fp32 on the CPU. A start noise depends on its seed alone."""


@dataclass(frozen=True)
class CalibrationPlan:
    """What is matched, and how hard."""

    steps: int = 8  # K of the run that gets a policy
    teacher_steps: int | None = None  # M; None: 8 K. More steps make a stronger policy
    prompts: int = 16
    batch: int = 8  # latents in one run of the model
    seed: int = 42

    def __post_init__(self) -> None:
        least = {"steps": 3, "prompts": 4, "batch": 1}
        for name, value in least.items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < value:
                raise CalibrationError(f"{name} must be a whole number of at least {value}, got {getattr(self, name)}.")
        if self.teacher < 2 * self.steps:
            raise CalibrationError(
                f"The teacher's {self.teacher} steps are too few for a run of {self.steps}; give twice as many or more."
            )

    @property
    def teacher(self) -> int:
        """M, the steps of the teacher."""
        return 8 * self.steps if self.teacher_steps is None else self.teacher_steps


@dataclass(frozen=True)
class Calibrated:
    """How a calibration ended."""

    policy: Curve
    report: dict[str, Any]  # what `calibration.json` holds


def check_shape(shape: Sequence[int]) -> None:
    """Raise CalibrationError for latents without a spectrum. shape: (n, C, [T,] H, W)."""
    if len(shape) < 4:
        raise CalibrationError("These latents have no height and width, so that they have no spectrum to compare.")
    if min(shape[-2:]) < 2 * BANDS:
        raise CalibrationError(
            f"A latent of {shape[-1]} × {shape[-2]} is too small for {BANDS} bands; choose a larger size."
        )


def check_grid(sigmas: Sequence[float]) -> None:
    """Raise CalibrationError unless σ falls, in three steps or more."""
    if len(sigmas) < 4 or not all(before > after for before, after in pairwise(sigmas)):
        raise CalibrationError(
            "σ must fall over at least three steps, and it does not here; choose another scheduler or more steps."
        )


@dataclass
class Calibration:
    """One calibration. `run` starts it or goes on with it; the folder holds every spectrum that was measured."""

    studio: LatentStudio
    prompts: PromptOrder
    plan: CalibrationPlan
    folder: Path
    on_evaluations: Callable[[int], Any] = lambda count: None  # noqa: ARG005 - called with the number that is now kept
    kept: dict[str, Tensor] = field(default_factory=dict)  # spectra (n, bands) by run and batch
    seconds: float = 0.0
    path: list[Point] = field(default_factory=list)  # every (a, last) that was measured, the start first

    def __post_init__(self) -> None:
        self.solver = solver_in(self.studio.describe())
        self.sigmas = self.studio.sigma_grid(self.plan.steps)
        check_grid(self.sigmas)

    def run(self, resume: bool = False) -> Calibrated:
        """Measure the teacher, then move (a, last). Raises CalibrationError, ResumeError, and the studio's errors."""
        if resume and (self.folder / STATE).is_file():
            state = load_state(self.folder / STATE, self._facts())
            self.kept, self.seconds = dict(state["spectra"]), float(state["seconds"])
        self._teach()
        plain = self._plain_distance()
        self._descend()
        report = self.report()
        best, found = self._best(), report["distance"]["calibrated"]
        write_json(self.folder / REPORT, report)
        if found >= plain:
            raise CalibrationError(
                f"No policy came nearer to the run of {self.plan.teacher} steps ({found:.3g}) than the synchronous"
                f" sampler is ({plain:.3g}); with this solver and guidance there is nothing to calibrate."
            )
        policy = self.policy(best, report)
        save_policy(self.folder / POLICY, policy)
        return Calibrated(policy, report)

    def policy(self, point: Point, report: dict[str, Any] | None = None) -> Curve:
        """D = a down to the last evaluation but one, and D = last at the last one, as a curve over σ."""
        a, last = point
        before, final = self.sigmas[-3], self.sigmas[-2]
        about = {} if report is None else self._about(report)
        knots = [(final, last), (before, a)]
        return Curve(knots, bound=LIFTED_BOUND, name=NAME, backbone=self.studio.backbone, about=about)

    def evaluations(self) -> int:
        """Evaluations that a calibration makes at most, in latents: the teacher, the plain run, and all rounds."""
        runs = 2 + 3 * ROUNDS
        few, many = (evaluations(self.solver, steps) for steps in (self.plan.steps, self.plan.teacher))
        return self.plan.prompts * (many + runs * few)

    def made(self) -> int:
        """Evaluations that are made and kept, in latents; those of an earlier run that this one goes on from count."""
        return sum(evaluations(self.solver, int(key.split()[0])) * len(rows) for key, rows in self.kept.items())

    def report(self) -> dict[str, Any]:
        """What `calibration.json` holds, of the points that were measured so far; there must be one."""
        best = self._best()
        return {
            "facts": self._facts(),
            "a": best[0],
            "last": best[1],
            "path": [{"a": a, "last": last, "distance": self._distance((a, last))} for a, last in self.path],
            "distance": {"synchronous": self._plain_distance(), "calibrated": self._distance(best)},
            "bands": {
                "synchronous": self._off(self._spectra(None, self.plan.steps)).tolist(),
                "calibrated": self._residual(best).tolist(),
            },
            "cost": {
                "evaluations": self.made(),
                "of the teacher": evaluations(self.solver, self.plan.teacher) * self.plan.prompts,
                "seconds": round(self.seconds, 1),
            },
        }

    # --- descent ----------------------------------------------------------------------------------------------------

    def _teach(self) -> None:
        """The teacher's spectra, their mean and their spread over prompts."""
        spectra = self._spectra(None, self.plan.teacher)
        self.goal, self.spread = spectra.mean(0), spectra.std(0)
        if float(self.spread.min()) < LEAST_STD:
            raise CalibrationError(
                "The latents of all prompts have the same spectrum, so that nothing can be told from it; give prompts"
                " that differ."
            )

    def _descend(self) -> None:
        """Fill `path`; it ends where the distance stops falling."""
        self._distance(START)
        self.path = [START]
        for _ in range(ROUNDS):
            reached = self._moved(self.path[-1])
            self._distance(reached)
            self.path.append(reached)
            if self._distance(reached) >= self._distance(self.path[-2]):
                break

    def _best(self) -> Point:
        return min(self.path, key=self._distance)

    def _moved(self, point: Point) -> Point:
        """P − (JᵀJ + ε)⁻¹ Jᵀ r, each number by at most `MOST_MOVE` and inside the bound."""
        r, columns = self._residual(point), []
        for number in range(2):
            step = STEP if point[number] + STEP <= LIFTED_BOUND else -STEP
            aside = tuple(value + step * (place == number) for place, value in enumerate(point))
            columns.append((self._residual((aside[0], aside[1])) - r) / step)
        jacobian = torch.stack(columns, 1)
        normal = jacobian.T @ jacobian + DAMPING * torch.eye(2, dtype=torch.float64)
        move = torch.linalg.solve(normal, jacobian.T @ r).clamp(-MOST_MOVE, MOST_MOVE)
        a, last = (torch.tensor(point, dtype=torch.float64) - move).clamp(-LIFTED_BOUND, LIFTED_BOUND).tolist()
        return a, last

    def _residual(self, point: Point) -> Tensor:
        """R (bands,): how far the mean spectrum is from the teacher's, in the teacher's spread over prompts."""
        return self._off(self._spectra(point, self.plan.steps))

    def _off(self, spectra: Tensor) -> Tensor:
        return (spectra.mean(0) - self.goal) / self.spread

    def _distance(self, point: Point) -> float:
        return float(self._residual(point).norm())

    def _plain_distance(self) -> float:
        return float(self._off(self._spectra(None, self.plan.steps)).norm())

    # --- measuring --------------------------------------------------------------------------------------------------

    def _spectra(self, point: Point | None, steps: int) -> Tensor:
        """Spectra (P, bands) of all prompts; what was measured before is not sampled again."""
        starts = range(0, self.plan.prompts, self.plan.batch)
        return torch.cat([self._part(point, steps, start) for start in starts])

    def _part(self, point: Point | None, steps: int, start: int) -> Tensor:
        key = f"{steps} {point} {start}"
        if key not in self.kept:
            part = self._measured(point, steps, range(start, min(start + self.plan.batch, self.plan.prompts)))
            self.kept[key] = part
            state = {"spectra": self.kept, "seconds": self.seconds}
            save_state(self.folder / STATE, self._facts(), state)
            self.on_evaluations(len(part) * evaluations(self.solver, steps))
        return self.kept[key]

    def _measured(self, point: Point | None, steps: int, numbers: range) -> Tensor:
        began = time.monotonic()
        policy = None if point is None else self.policy(point)
        prompts, seeds = [self.prompts[n] for n in numbers], [derive(self.plan.seed, "calibrate", n) for n in numbers]
        latents = self.studio.latents(prompts, seeds, policy, Retiming() if policy else None, steps=steps)
        check_shape(latents.shape)
        spectrum = band_spectrum(latents)
        if not spectrum.isfinite().all():
            raise CalibrationError(f"A run of {steps} steps ended in latents without variation; nothing was decided.")
        self.seconds += time.monotonic() - began
        return spectrum

    # --- telling ----------------------------------------------------------------------------------------------------

    def _about(self, report: dict[str, Any]) -> dict[str, Any]:
        """What the policy's file says of how it was made."""
        return {
            "source": "asyncdiff calibrate (experimental): the spectrum of a run of many steps, no rewards",
            "retiming": {},
            "steps": self.plan.steps,
            "teacher steps": self.plan.teacher,
            "prompts": self.plan.prompts,
            "images": 0,
            "sampling": self.studio.describe(),
            "solver": self.solver,
            "grid": self.sigmas,
            "distance": report["distance"],
            "cost": report["cost"],
        }

    def _facts(self) -> dict[str, Any]:
        """What must not change within a calibration."""
        plan = asdict(self.plan) | {"teacher_steps": self.plan.teacher}
        studio = self.studio.describe()
        return {**plan, **studio, "sigmas": self.sigmas, "prompts list": self.prompts.fingerprint}
