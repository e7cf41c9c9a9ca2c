"""Sampling with a TPM that explores, and what has to be kept to learn from it.

The recorder is an ordinary policy, so any studio can roll out. Nothing is kept that can be recomputed: x0 is x − t·v,
and the prompt is kept once a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import AsyncDiffError
from ...policies.learned import sample_beta
from ...policies.network import TPM, Fixed
from ...retiming.contract import StepState, TextCondition, check_bound
from ...retiming.equations import beta_log_prob
from ...retiming.settings import Retiming
from ...retiming.trace import Trace
from ..stopwatch import Stopwatch
from ..studio import Studio


@dataclass(frozen=True)
class Sample:
    """One trajectory to make: its prompt, the seed of its start noise, the seed of its actions, its group."""

    prompt: str
    noise: int
    actions: int
    group: int
    number: int = 0  # its place among the iteration's trajectories


@dataclass
class Step:
    """What was seen and done at one step of a batch of B trajectories."""

    x: Tensor  # (B, C, …), in the precision of the run
    v: Tensor  # (B, C, …)
    sigma: float  # t_k; x0 = x − t_k·v
    times: Tensor  # (B, 4), see `TPM.times`
    r: Tensor  # (B,) fp32 on the CPU, the action before any clamp
    log_prob: Tensor  # (B,) fp32 on the CPU, of r under the policy that drew it
    free: Tensor  # (B,) bool: t* was not clamped, so the action had its effect


@dataclass
class Batch:
    """B trajectories that were rendered together."""

    steps: list[Step]
    text: TextCondition  # one row where all prompts are the same, else B
    images: Tensor  # (B, 3, H, W), or frames (B, F, 3, H, W)
    trace: Trace
    numbers: Sequence[int]  # which trajectories of the iteration these are


class Recorder:
    """The policy of a rollout: draws r from the TPM with one generator per sample, and keeps every step."""

    name = "rollout"
    needs_state = True

    def __init__(self, tpm: TPM, bound: float, seeds: Sequence[int], stopwatch: Stopwatch) -> None:
        check_bound(bound)
        self.bound, self.backbone = bound, tpm.config.backbone
        self.steps: list[Step] = []
        self.text = TextCondition()
        self._tpm, self._clock, self._seeds = tpm, stopwatch, seeds
        self._generators: list[torch.Generator] = []
        self._tokens: Tensor | None = None
        self._fixed: Fixed | None = None

    def begin(self, sigmas: Sequence[float]) -> None:  # noqa: ARG002 - the protocol's signature
        """A run starts: forget everything, and draw the same actions again."""
        self.steps, self._tokens, self._fixed = [], None, None
        self._generators = [torch.Generator().manual_seed(seed) for seed in self._seeds]

    def ratio(self, state: StepState) -> Tensor:
        """The action r (B,) ~ Beta(φ(a), φ(b))."""
        with torch.inference_mode(False), torch.no_grad(), self._clock("recording"):
            seen = self._kept(state)
            with self._clock("tpm"):
                a, b = self._answer(state, seen)
            self.steps.append(seen)
            seen.r = torch.cat([sample_beta(*row, one) for row, one in zip(_rows(a, b), self._generators, strict=True)])
            seen.log_prob = beta_log_prob(a, b, seen.r)
            return seen.r.to(seen.x.device)

    def to_dict(self) -> dict[str, Any]:
        """A rollout is not a policy to save."""
        return {"kind": "rollout", "name": self.name, "bound": self.bound}

    def _kept(self, state: StepState) -> Step:
        """Copies that outlive the sampler's buffers and, inside ComfyUI, its inference mode."""
        assert state.x is not None
        assert state.v is not None
        if len(state.x) != len(self._seeds):
            raise AsyncDiffError(
                f"The host gave {len(state.x)} latents for {len(self._seeds)} samples; update asyncdiff."
            )
        blank = torch.empty(0)
        return Step(state.x.clone(), state.v.clone(), state.sigma, self._tpm.times(state).clone(), blank, blank, blank)

    def _answer(self, state: StepState, seen: Step) -> tuple[Tensor, Tensor]:
        """(a, b), each (B,), on the CPU."""
        if self._tokens is None:
            self._tpm.to(seen.x.device)
            self.text = _own(state.text)
            self._tokens, self._fixed = self._tpm.encode_text(self.text, len(seen.x)), self._tpm.fixed()
        a, b = self._tpm(seen.x, seen.v, seen.x - seen.sigma * seen.v, seen.times, self._tokens, self._fixed)
        return a.cpu(), b.cpu()


def roll_out(
    studio: Studio, tpm: TPM, samples: Sequence[Sample], steps: int, retiming: Retiming, stopwatch: Stopwatch
) -> Batch:
    """Render samples in one batch, exploring: `retiming` says how the actions are applied, with γ = 1 and a bound."""
    assert retiming.bound is not None
    recorder = Recorder(tpm, retiming.bound, [sample.actions for sample in samples], stopwatch)
    prompts, seeds = [sample.prompt for sample in samples], [sample.noise for sample in samples]
    with stopwatch("render"):
        rendering = studio.render(prompts, seeds, recorder, retiming, steps=steps)
    assert rendering.trace is not None
    if not recorder.steps:
        raise AsyncDiffError("The policy was never asked: training needs two steps or more that are not in the tail.")
    for step, clamped in zip(recorder.steps, _acted(rendering.trace), strict=True):
        step.free = ~torch.tensor(clamped if isinstance(clamped, list) else [clamped] * len(samples), dtype=torch.bool)
    text = recorder.text if len(set(prompts)) > 1 else _first_row(recorder.text)
    numbers = [sample.number for sample in samples]
    return Batch(recorder.steps, text, rendering.images, rendering.trace, numbers)


def _acted(trace: Trace) -> list[Any]:
    """The clamp flags of the steps whose action was drawn: a synchronous step has r = 0.5 as a plain number."""
    return [clamped for clamped, r in zip(trace.clamped, trace.ratio, strict=True) if isinstance(r, list)]


def _rows(a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(a.split(1), b.split(1), strict=True))


def _own(text: TextCondition | None) -> TextCondition:
    """A copy that can be saved for backward."""
    if text is None:
        return TextCondition()
    return TextCondition(*(None if part is None else part.clone() for part in (text.context, text.pooled)))


def _first_row(text: TextCondition) -> TextCondition:
    return TextCondition(*(None if part is None else part[:1] for part in (text.context, text.pooled)))
