"""Finding a policy without gradients: constants, then the cross-entropy method over a curve, then held-out prompts.

Everything is compared with the synchronous sampler on the same prompts and noises. The gain of a policy is the mean
over prompts of Σ w·(S − S_sync)/σ / Σ|w|, where σ is how much a metric varies between two synchronous images of one
prompt: what Eq 16 would give the difference within a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ...files import write_json
from ...policies import Constant, Curve, Policy, retiming_of, save_policy, solver_in
from ...statistics import bootstrap
from ..compare.measure import Arm, GainScale, Measured, Measurer
from ..prompts import PromptOrder
from ..resume import resumed, save_state
from ..studio import derive
from .cross_entropy import Belief, Candidate, knots_in_log_snr
from .plan import BEST, SearchError, SearchPlan

STATE, REPORT, CURVE, CONSTANT = "state.pt", "search.json", "curve.json", "constant.json"
FINALISTS = 3


@dataclass(frozen=True)
class Found:
    """How a search ended. Files are written by the process that is_main."""

    curve: Curve
    constant: Constant
    report: dict[str, Any]  # what `search.json` holds


@dataclass
class Search:
    """One search. `run` starts it or goes on with it; the folder holds everything that was found."""

    measurer: Measurer
    prompts: PromptOrder
    held_out: Sequence[str]
    plan: SearchPlan
    folder: Path
    metrics: Mapping[str, str] = field(default_factory=dict)  # name → version of the weights
    on_record: Callable[[dict[str, Any]], Any] = lambda record: None  # noqa: ARG005

    def __post_init__(self) -> None:
        if not self.held_out:
            raise SearchError("There are no held-out prompts; give prompts that the search does not use.")
        self.sigmas = self.measurer.studio.sigma_grid(self.plan.steps)
        self.knots = knots_in_log_snr(self.sigmas, self.plan.knots)
        self.std: dict[str, float] = {}
        self.saved: dict[str, int] = {}  # evaluations by stage that runs with one start noise shared
        self.constants: list[dict[str, Any]] = []
        self.generations: list[dict[str, Any]] = []
        self.belief = self._belief(0.0)

    def run(self, resume: bool = False) -> Found:
        """All stages, or those that are missing. Raises ResumeError, MeasureError, and what studio and scorer raise."""
        if resume:
            self._resume()
        if not self.constants:
            self._try_constants()
        reason = self._settled()
        while len(self.generations) < self.plan.generations and reason is None:
            self._try_generation()
            reason = self._settled()
        return self._finish(reason)

    @property
    def best_constant(self) -> tuple[float, int]:
        """(D, tail_sync) of the constant with the highest gain, D = 0 among them."""
        best = max(self.constants, key=_gain)
        return float(best["D"]), int(best["tail_sync"])

    def images(self, generations: int | None = None) -> int:
        """How many images a search of so many generations renders; a whole one at most, by default."""
        plan = self.plan
        generations = plan.generations if generations is None else generations
        finals = (FINALISTS + 2) * min(plan.held_out, len(self.held_out))
        return self.images_of_constants() + generations * (plan.population + 1) * plan.prompts + finals

    def images_of_constants(self) -> int:
        """How many of them the first stage renders."""
        return (self.plan.constant_arms() + 2) * self.plan.prompts

    # --- stages ---------------------------------------------------------------------------------------------------

    def _try_constants(self) -> None:
        """Stage 0: the metrics' σ, every D with the first tail, then the best three D with the other tails."""
        with self._counting("constants"):
            self._measure_constants()
        self.belief = self._belief(self.best_constant[0])
        self._save()

    def _measure_constants(self) -> None:
        prompts, seeds = self._pairs(0)
        plain, again = Arm("synchronous", self.plan.steps), [self._seed("spread", n) for n in range(len(prompts))]
        reference, other = (self.measurer.measure([plain], prompts, noises)[0] for noises in (seeds, again))
        self.std = dict(GainScale.between_noises(reference, other, self.plan.weights).std)
        self._record_constant((0.0, 0), reference, reference)

        def measure(candidates: Sequence[tuple[float, int]]) -> None:
            arms = [self._arm(self._constant(*candidate)) for candidate in candidates]
            for candidate, measured in zip(candidates, self.measurer.measure(arms, prompts, seeds), strict=True):
                self._record_constant(candidate, measured, reference)

        first, *others = self.plan.tails
        measure([(d, first) for d in self.plan.constants()])
        best = [row["D"] for row in sorted(self.constants, key=_gain, reverse=True) if row["D"]][:BEST]
        if others:
            measure([(d, tail) for d in best for tail in others])

    def _record_constant(self, candidate: tuple[float, int], measured: Measured, reference: Measured) -> None:
        row = dict(zip(("D", "tail_sync"), candidate, strict=True))
        self._record("constants", self.constants, {**row, **self._summary(measured, reference)})

    def _try_generation(self) -> None:
        """One generation of stage 1, on prompts and noises of its own."""
        plan, number = self.plan, len(self.generations) + 1
        prompts, seeds = self._pairs(number)
        candidates = self.belief.draw(plan.population, plan.bound, self._seed("candidates", number))
        arms = [Arm("synchronous", plan.steps), *map(self._arm_of, candidates)]
        with self._counting(f"generation {number}"):
            reference, *made = self.measurer.measure(arms, prompts, seeds)
        rows = [{**c.to_dict(), **self._summary(m, reference)} for c, m in zip(candidates, made, strict=True)]
        elite = sorted(rows, key=_gain, reverse=True)[: plan.elite]
        self.belief.learn([Candidate.from_dict(row) for row in elite])
        self._record("generation", self.generations, {"generation": number, **self._progress(rows, elite)})
        self._save()

    def _progress(self, rows: list[dict[str, Any]], elite: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "centre": rows[0]["gain"],
            "best": elite[0]["gain"],
            "elite": fmean(row["gain"] for row in elite),
            "mean": list(self.belief.mean),
            "std": list(self.belief.std),
            "tails": dict(self.belief.tails),
            "couplings": dict(self.belief.couplings),
            "candidates": rows,
        }

    def _settled(self) -> str | None:
        """Why no further generation is worth its time."""
        spread = max(self.belief.std)
        if self.generations and spread < self.plan.enough * self.plan.bound:
            return f"the elite agrees: its D spread by no more than {spread:.3f} at any knot"
        return None

    def _finish(self, reason: str | None) -> Found:
        """Stage 2: the finalists, the best constant and the synchronous sampler on held-out prompts."""
        prompts = list(self.held_out[: self.plan.held_out])
        seeds = [self._seed("held-out", n) for n in range(len(prompts))]
        finalists = self._finalists()
        constant = self._constant(*self.best_constant)
        arms = [Arm("synchronous", self.plan.steps), self._arm(constant), *map(self._arm_of, finalists)]
        with self._counting("held-out"):
            reference, *made = self.measurer.measure(arms, prompts, seeds)
        rows = [self._final_row(arm, measured, reference) for arm, measured in zip(arms[1:], made, strict=True)]
        winner = max(range(len(finalists)), key=lambda n: rows[1 + n]["gain"])
        over_constant = self._gain_scale.gain(made[1 + winner], made[0]).numpy()
        report = self._report(reason, [self._final_row(arms[0], reference, reference), *rows])
        report["winner"] = {**rows[1 + winner], "over_constant": asdict(bootstrap(over_constant))}
        found = Found(self._named(finalists[winner], report["winner"]), constant, report)
        if self.measurer.processes.is_main:
            save_policy(self.folder / CURVE, found.curve)
            save_policy(self.folder / CONSTANT, constant)
            write_json(self.folder / REPORT, report)
        return found

    def _finalists(self) -> list[Candidate]:
        """The centre, then the best of the last two generations, all different."""
        rows = [row for generation in self.generations[-2:] for row in generation["candidates"]]
        ranked = [Candidate.from_dict(row) for row in sorted(rows, key=_gain, reverse=True)]
        return list(dict.fromkeys([self.belief.centre(), *ranked]))[:FINALISTS]

    # --- inside ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _counting(self, stage: str) -> Iterator[None]:
        """Write down how many evaluations the processes save in this block."""
        studio, processes = self.measurer.studio, self.measurer.processes
        before = studio.saved_evaluations
        yield
        self.saved[stage] = sum(processes.gather(studio.saved_evaluations - before))

    @property
    def _gain_scale(self) -> GainScale:
        return GainScale.stored(self.std, self.plan.weights)

    def _belief(self, d: float) -> Belief:
        plan = self.plan
        return Belief.around(d, plan.spread * plan.bound, len(self.knots), plan.tails, plan.couplings)

    def _seed(self, *parts: int | str) -> int:
        return derive(self.plan.seed, "search", *parts)

    def _pairs(self, stage: int) -> tuple[list[str], list[int]]:
        """The prompts and noises of a stage; the next stage has the following prompts."""
        positions = range(stage * self.plan.prompts, (stage + 1) * self.plan.prompts)
        return [self.prompts[n] for n in positions], [self._seed("noise", n) for n in positions]

    def _constant(self, d: float, tail: int) -> Constant:
        studio, name = self.measurer.studio, f"constant D = {d:+g}" + (f", tail {tail}" if tail else "")
        about = {
            "retiming": {"tail_sync": tail} if tail else {},
            "source": "search",
            "solver": solver_in(studio.describe()),
            "images": self.images(0),
        }
        return Constant(d, self.plan.bound, name, studio.backbone, about)

    def _arm(self, policy: Policy) -> Arm:
        return Arm(policy.name, self.plan.steps, policy, retiming_of(policy))

    def _arm_of(self, candidate: Candidate) -> Arm:
        curve = candidate.curve(self.knots, self.plan.bound, name=_describe(candidate))
        return Arm(curve.name, self.plan.steps, curve, candidate.retiming)

    def _summary(self, measured: Measured, reference: Measured) -> dict[str, Any]:
        """The gain with its standard error over prompts, and every metric's mean."""
        gain = self._gain_scale.gain(measured, reference)
        error = float(gain.std() / len(gain) ** 0.5)
        means = {name: float(values.mean()) for name, values in measured.scores.items()}
        return {"gain": float(gain.mean()), "error": error, "metrics": means}

    def _final_row(self, arm: Arm, measured: Measured, reference: Measured) -> dict[str, Any]:
        gain = self._gain_scale.gain(measured, reference).numpy()
        interval = asdict(bootstrap(gain)) if np.any(gain) else None
        return {"name": arm.name, **self._summary(measured, reference), "interval": interval}

    def _named(self, winner: Candidate, row: Mapping[str, Any]) -> Curve:
        applied = {"tail_sync": winner.tail_sync, "velocity_coupling": winner.coupling}
        about = {
            "source": f"asyncdiff search, {len(self.generations)} generations of {self.plan.population}",
            "retiming": applied,
            "steps": self.plan.steps,
            "images": self.images(len(self.generations)),
            "sampling": self.measurer.studio.describe(),
            "solver": solver_in(self.measurer.studio.describe()),
            "gain": {name: row[name] for name in ("interval", "over_constant", "metrics")},
        }
        return winner.curve(
            self.knots, self.plan.bound, name="curve", backbone=self.measurer.studio.backbone, about=about
        )

    def _record(self, stage: str, rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
        rows.append(row)
        self.on_record({"stage": stage, **row})

    def _report(self, reason: str | None, finals: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "facts": self._facts(),
            "knots": self.knots,
            "std": self.std,
            "constants": self.constants,
            "generations": [_with_text_keys(row) for row in self.generations],
            "stopped": reason or f"all {self.plan.generations} generations are done",
            "held_out": finals,
            "saved_evaluations": self.saved,
        }

    def _save(self) -> None:
        if self.measurer.processes.is_main:
            rows = {"constants": self.constants, "generations": self.generations, "std": self.std, "saved": self.saved}
            save_state(self.folder / STATE, self._facts(), {**rows, "belief": asdict(self.belief)})

    def _resume(self) -> None:
        state = resumed(self.measurer.processes, self.folder / STATE, self._facts())
        if state is None:
            return
        self.constants, self.generations, self.std = state["constants"], state["generations"], state["std"]
        self.saved = dict(state.get("saved", {}))  # earlier releases did not count
        self.belief = Belief(**state["belief"])

    def _facts(self) -> dict[str, Any]:
        """What must not change within a search: everything that decides its numbers but how long it is."""
        plan = asdict(self.plan)
        del plan["generations"], plan["held_out"]
        return {
            **plan,
            **self.measurer.studio.describe(),
            "batch": self.measurer.batch,
            "sigmas": self.sigmas,
            "metrics": dict(self.metrics),
            "constants": "with tails",
            "prompts list": self.prompts.fingerprint,
        }


def _gain(row: Mapping[str, Any]) -> float:
    return float(row["gain"])


def _describe(candidate: Candidate) -> str:
    """D at the knots, and what differs from the plain application."""
    name = "curve " + " ".join(f"{value:+.2f}" for value in candidate.values)
    name += f", tail {candidate.tail_sync}" if candidate.tail_sync else ""
    return name + (f", p {candidate.coupling:g}" if candidate.coupling else "")


def _with_text_keys(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON keys are text."""
    return {**row, **{key: {f"{k:g}": share for k, share in row[key].items()} for key in ("tails", "couplings")}}
