"""How many operators a call asks of the device: on a small network these launches cost more than the arithmetic.

A CPU counts what a GPU would be asked: the host's calls are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from ...policies import Learned
from ...policies.network import TPM, TPMConfig
from ...retiming.contract import DeviceState, Policy, StepState, TextCondition
from ...retiming.courses import course_on_device
from ...retiming.retimer import Retimer


@dataclass(frozen=True)
class Operators:
    """What one call asks for."""

    called: int  # operators that the code calls, as the profiler lists them, without those inside of others
    computing: int  # operators that write a tensor, so without views


class Computing(TorchDispatchMode):
    """Counts the operators whose result is not a view of what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def operators(call: Callable[[], object]) -> Operators:
    """Count the operators of one call, after one to warm up."""
    call()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    with Computing() as computing:
        call()
    return Operators(sum(event.cpu_parent is None for event in seen.events()), computing.count)


def tpm_operators(config: TPMConfig, side: int = 16) -> Operators:
    """The operators with which a TPM decides one step of a run, on a latent (1, C, side, side)."""
    small = replace(config, context_dim=8, pooled_dim=8)  # the prompt is read once per run, not in each call
    policy = Learned(TPM(small).eval())
    x = torch.zeros(1, config.latent_channels, side, side)
    text = TextCondition(torch.zeros(1, 2, 8), torch.zeros(1, 8))
    state = StepState(x, x, 0.8, 0.7, torch.full((1,), 0.75), index=2, steps=8, text=text)
    return operators(lambda: policy.ratio(state))


class Decided:
    """In a TPM's place: it is asked as one is, and its answer takes no operator."""

    name, bound, backbone, needs_state = "decided", 0.5, None, True
    _answer = torch.full((1,), 0.7)

    def begin(self, sigmas: Sequence[float]) -> None:
        """Nothing to forget."""

    def ratio(self, state: StepState | DeviceState) -> torch.Tensor:  # noqa: ARG002 - the protocol's signature
        """Always the same."""
        return self._answer

    ratio_on_device = ratio

    def to_dict(self) -> dict[str, Any]:
        """Its name."""
        return {"name": self.name}


def run_operators(policy: Policy, steps: int = 8) -> Operators:
    """The operators that find the step of an evaluation and keep its decision, where the sampler's σ is on a device.

    policy: one that answers without an operator.
    """
    retimer = Retimer(policy)
    retimer.begin([1 - k / steps for k in range(steps + 1)])
    x, sigmas = torch.zeros(1, 4, 8, 8), [torch.tensor([t], dtype=torch.float64) for t in retimer.grid]
    course = course_on_device(retimer, x)
    assert course is not None

    def evaluation() -> None:
        course.condition(sigmas[len(course.numbers)])
        course.observe(x, x)

    evaluation()
    return operators(evaluation)
