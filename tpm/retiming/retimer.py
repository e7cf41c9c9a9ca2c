"""One run of asynchronous conditioning: which t* now, and what was seen.

A host drives a `Retimer` with two calls per evaluation of the denoiser: `condition` says which timestep the denoiser is
told, `observe` takes in what came out. Steps are found by σ, never by counting calls. All host-side arithmetic is on
Python floats: a constant policy does no tensor work, and no policy makes the host wait for the device.

Samplers and caches leave steps out. The last state that was seen then decides; before any was seen, nothing deviates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import AsyncDiffError
from .contract import Policy, StepState, TextCondition
from .decisions import Decision, decide, plain
from .equations import (
    Limits,
    Value,
    check_grid,
    check_points,
    held_timestep,
    limits,
    locate,
    same_point,
)
from .parts import Stretch, place
from .pieces import Foretold
from .settings import Retiming
from .trace import Trace


@dataclass
class Evaluation:
    """The evaluation in progress: its σ, its step, and whether the step begins with it."""

    sigma: float
    step: int
    first: bool


class Retimer:
    """Drives one run at a time; `begin` resets everything, so one Retimer serves many runs."""

    def __init__(self, policy: Policy, retiming: Retiming | None = None) -> None:
        self.policy, self.retiming = policy, retiming or Retiming()
        self.bound = policy.bound if self.retiming.bound is None else self.retiming.bound
        self.grid: tuple[float, ...] = ()
        self.part = Stretch(0, 0)  # the steps of the run in progress; all of the grid unless it is a part of a run
        self.notes: list[str] = []  # sentences for the trace of the run in progress
        self._text: TextCondition | None = None
        self._decisions: list[Decision | None] = []
        self._foretold: tuple[object, Foretold] | None = None  # of the grid of the latest run
        self._evaluation: Evaluation | None = None
        self._observed: StepState | None = None
        self._observed_step = -1
        self._pending = False  # an evaluation is conditioned and not yet observed
        self._unseen = False  # an evaluation was never observed

    @property
    def active(self) -> bool:
        """False when γ = 0: nothing is asked of the policy and nothing is changed."""
        return self.retiming.gamma != 0

    def begin(
        self,
        sigmas: Sequence[float] | Tensor,
        text: TextCondition | None = None,
        whole: Sequence[float] | None = None,
    ) -> None:
        """A run starts on this grid: t_0 > … > t_K, K ≥ 1, as floats or a 1-D CPU tensor.

        whole: the grid of the whole run, where this run is a part of it. Steps, tail, clamps and k/K are then those of
        the whole run, and `resume` brings what the part before it saw.

        Raises GridError when it is no such grid, no part of `whole`, or not the one a recorded policy was made on.
        """
        self.grid, self.part = place(check_grid(sigmas), whole)
        self.notes = []
        self._reset(text if self.policy.needs_state else None)
        self.policy.begin(self.grid)

    def begin_rising(self, points: Sequence[float], text: TextCondition | None = None) -> None:
        """A run starts on a grid that also rises: its decisions are made elsewhere (`RisingRun`) and settled here."""
        self.grid = check_points(points)
        self.part, self.notes = Stretch(0, len(self.grid) - 1), []
        self._reset(text if self.policy.needs_state else None)

    def resume(self, seen: StepState) -> None:
        """Go on from the last state that the part before this one saw (`carried`), under the prompt of this part.

        A solver of two stages (heun) saw the end of that part as well, which is this part's first point.
        """
        self._require_begun()
        self.remember(replace(seen, text=self._text, index=min(seen.index, self.part.first - 1)))

    def remember(self, seen: StepState) -> None:
        """Take over the last state that was seen elsewhere."""
        self._observed, self._observed_step = seen, seen.index

    @property
    def observed(self) -> StepState | None:
        """The last state that was seen, in this run or in the part of the run that it resumes."""
        return self._observed

    @property
    def carried(self) -> StepState | None:
        """The last state that was seen, for the next part of the whole run; None where nothing needs it."""
        wanted = self.policy.needs_state and self.part.stop < self._steps
        return self._observed if wanted else None

    def read_prompt(self, text: TextCondition) -> None:
        """The prompt of the run in progress, where a host learns it only after the first evaluation."""
        self._require_begun()
        self._text = text if self.policy.needs_state else None

    def end(self) -> None:
        """The run is over: forget its latents, its prompt and its grid."""
        self.grid = ()
        self._reset(None)

    @property
    def step(self) -> int:
        """The step k of the latest evaluation, −1 before the first."""
        return self._evaluation.step if self._evaluation else -1

    @property
    def decision(self) -> Decision:
        """What holds for the latest evaluation; a host that conditions every pixel applies it to a map."""
        self._require_begun()
        return self._decide(max(self.step, 0))

    def condition(self, sigma: float, new_step: bool | None = None) -> Value:
        """t* for the evaluation at σ: exactly `sigma` where nothing deviates, else a float or a tensor (B,).

        `new_step`: a host that knows says whether a step begins here; False keeps the current step although σ already
        is the next grid point (Heun's second stage). Asked twice for one evaluation, the answer is the same.
        A grid that starts again after its last step (one block of a video after another) is a new run.
        """
        self._require_begun()
        if self._starts_again(sigma):
            self._reset(self._text)
            self.policy.begin(self.grid)
        current = self._evaluation
        self._unseen |= self._pending and current is not None and current.sigma != sigma
        self._pending = True
        held = new_step is False and current is not None
        step = current.step if held and current else locate(self.grid, sigma)
        on_grid = not held and same_point(sigma, self.grid[step])
        first = not held and (on_grid or self._observed_step != step)
        self._evaluation = Evaluation(sigma, step, first)
        decision = self._decide(step)
        if on_grid:
            return decision.t_star if _deviates(decision.rho) else sigma
        return self._held(decision.rho, sigma)

    def observe(self, x: Tensor, sigma: float, v: Tensor) -> Tensor:
        """Take in the state (x, σ, v) of an evaluation; returns ω·v, the same object where ω is exactly 1.

        x, v: (B, C, H, W), or any shape (B, …) when the policy does not read them.
        """
        self._require_begun()
        evaluation = self._evaluation
        if evaluation is None or evaluation.sigma != sigma:
            evaluation = Evaluation(sigma, locate(self.grid, sigma), True)
        self._pending = False
        if evaluation.first:
            self._remember(x, v, evaluation)
        return _scaled(v, self._decide(evaluation.step).omega)

    def withdraw(self) -> None:
        """In place of `observe`: the denoiser was not asked, because a cache answered instead of it.

        Its step counts as synchronous, unless an earlier evaluation of it was seen.
        """
        self._pending = False
        if self._evaluation is not None and self._evaluation.step != self._observed_step:
            self._decisions[self._evaluation.step] = None

    def foretell(self) -> Foretold:
        """What the run is told at every σ, by a policy that reads no state: the same in every run on this grid."""
        run = (self.grid, self.part)
        if self._foretold is None or self._foretold[0] != run:
            decisions = [self._decide(step) for step in range(self._steps)]
            self._foretold = (run, Foretold(self.grid, self.part, decisions, self.held_range))
        return self._foretold[1]

    def pass_steps(self, count: int) -> None:
        """The first `count` steps of this run had no deviation, and were not shown."""
        passed = range(self.part.first, self.part.first + count)
        self.settle([Decision(t_star=t) if k in passed else None for k, t in enumerate(self.grid[:-1])])

    def settle(self, decisions: Sequence[Decision | None]) -> None:
        """Take over what was decided step by step elsewhere; None where a step was not evaluated."""
        self._decisions = list(decisions)

    @property
    def decisions(self) -> list[Decision | None]:
        """What was decided, step by step; None where nothing was evaluated."""
        return self._decisions

    @property
    def text(self) -> TextCondition | None:
        """The prompt of the run."""
        return self._text

    @property
    def trace(self) -> Trace:
        """What has been decided in this run. Reads tensors back from the device: not for the middle of a run."""
        done = self._decided()
        return Trace(
            sigmas=list(self.grid[self.part.first : self.part.stop + 1]),
            t_star=plain([decision.t_star for decision in done]),
            deviation=plain([decision.applied for decision in done]),
            proposed=plain([decision.deviation for decision in done]),
            ratio=plain([decision.ratio for decision in done]),
            clamped=plain([decision.clamped for decision in done]),
            policy=self.policy.to_dict(),
            retiming=self.retiming.to_dict() | {"bound": self.bound},
            notes=list(self.notes),
        )

    # --- inside ---------------------------------------------------------------------------------------------------

    @property
    def _steps(self) -> int:
        return max(len(self.grid) - 1, 0)

    def _reset(self, text: TextCondition | None) -> None:
        self._text = text
        self._decisions = [None] * self._steps
        self._evaluation = None
        self._observed = None
        self._observed_step = -1
        self._pending = self._unseen = False

    def _starts_again(self, sigma: float) -> bool:
        """Whether σ is the first grid point after an evaluation of the last step."""
        first, stop = self.part
        return stop - first > 1 and self.step == stop - 1 and same_point(sigma, self.grid[first])

    def _require_begun(self) -> None:
        if not self.grid:
            raise AsyncDiffError("The retimer was asked before a run began; call begin(sigmas) first.")

    def _remember(self, x: Tensor, v: Tensor, evaluation: Evaluation) -> None:
        """Keep the state at the first stage of this step, for the action that decides the next one."""
        step = evaluation.step
        t_star = self._decide(step).t_star
        keep = self.policy.needs_state and self.acts_on(step + 1)
        self._observed_step = step
        self._observed = StepState(
            x=x if keep else None,
            v=v if keep else None,
            sigma=evaluation.sigma,
            sigma_next=self.grid[step + 1],
            t_star=t_star,
            index=step,
            steps=self._steps,
            text=self._text,
        )

    def _decided(self) -> list[Decision]:
        """The decisions up to the latest; a step that the sampler jumped over counts as synchronous."""
        first, stop = self.part
        made = [k for k in range(first, stop) if self._decisions[k] is not None]
        steps = range(first, 1 + max(made, default=first - 1))
        return [self._decisions[k] or Decision(t_star=self.grid[k]) for k in steps]

    def acts_on(self, step: int) -> bool:
        """Whether step k is one whose deviation is decided: not the first, not in the tail, not ω's last."""
        tail = max(self.retiming.tail_sync, 1 if self.retiming.target == "velocity" else 0)
        return self.active and 0 < step < self._steps - tail

    def _decide(self, step: int) -> Decision:
        """The decision for a step, made once per run."""
        decision = self._decisions[step]
        if decision is None:
            acts = self.acts_on(step) and not self._blind()
            decision = self._act(step) if acts else Decision(t_star=self.grid[step])
            self._decisions[step] = decision
        return decision

    def _blind(self) -> bool:
        """Whether the policy needs a latent and none was seen yet. Raises AsyncDiffError where one should have been."""
        if not self.policy.needs_state or (self._observed is not None and self._observed.x is not None):
            return False
        if self._unseen:
            raise AsyncDiffError(
                f"The policy {self.policy.name!r} decides from the latent of the step before, and none was handed back:"
                " call observe after every evaluation, or use a constant or curve policy."
            )
        return True

    def _act(self, step: int) -> Decision:
        """Ask the policy for r (Eq 7), then Eq 12 and Eq 6, or Eq 20."""
        r = self.policy.ratio(self._state_before(step))
        t, t_before = self.grid[step], self.grid[step - 1]
        return decide(r, self.retiming, self.bound, t, t_before, self.limits(step))

    def limits(self, step: int) -> Limits:
        """The clamps for step k: [σ_min, t_0], or the neighbouring grid points, or the part's ends, as well."""
        floors, ceilings = [], []
        if self.retiming.within_interval:
            floors, ceilings = [self.grid[step + 1]], [self.grid[step - 1]]
        if self.retiming.within_part:
            floors.append(self.grid[self.part.stop])
            ceilings.append(self.grid[self.part.first])
        return limits(
            self.grid[step],
            t_start=self.grid[0],
            sigma_min=self.retiming.sigma_min,
            floor=max(floors, default=None),
            ceiling=min(ceilings, default=None),
        )

    @property
    def held_range(self) -> tuple[float, float]:
        """The range of t* where ρ is held: later stages of a step, and σ off the grid."""
        lowest, highest = self.retiming.sigma_min, self.grid[0]
        if not self.retiming.within_part:
            return lowest, highest
        return max(lowest, self.grid[self.part.stop]), min(highest, self.grid[self.part.first])

    def _state_before(self, step: int) -> StepState:
        """What decides step k: the state of step k − 1, else the last that was seen; no latents where none are read."""
        seen = self._observed
        if seen is not None and self._observed_step == step - 1:
            return seen
        if seen is not None and self.policy.needs_state:
            return replace(seen, sigma_next=self.grid[step], index=step - 1)
        before = self._decisions[step - 1] or Decision(t_star=self.grid[step - 1])
        return StepState(None, None, self.grid[step - 1], self.grid[step], before.t_star, step - 1, self._steps)

    def _held(self, rho: Value, sigma: float) -> Value:
        """ρ_k·σ for a later stage or an off-grid σ, exactly σ where ρ is 1."""
        if not _deviates(rho):
            return sigma
        lowest, highest = self.held_range
        return held_timestep(rho, sigma, t_start=highest, sigma_min=lowest)


def _deviates(rho: Value) -> bool:
    """Whether ρ may differ from 1. A tensor counts as deviating: looking inside would make the host wait."""
    return isinstance(rho, Tensor) or rho != 1.0


def _scaled(v: Tensor, omega: Value) -> Tensor:
    """ω·v in the dtype of v; the same object where ω is exactly 1."""
    if isinstance(omega, Tensor):
        return (v * omega.to(v.device).reshape(-1, *[1] * (v.ndim - 1))).to(v.dtype)
    return v if omega == 1.0 else v * omega
