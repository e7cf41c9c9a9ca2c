"""A policy that repeats what another run decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GridError, PolicyError
from ..retiming.contract import StepState, check_backbone_name, check_bound
from ..retiming.equations import DEFAULT_BOUND, Value
from ..retiming.parts import find, rises
from ..retiming.trace import Trace
from .base import describe


class Recorded:
    """Replays the actions r of a trace, on the grid that the trace was recorded on.

    The trace of a part of a run fits the whole run's grid; the steps around it are synchronous.
    """

    def __init__(self, trace: Trace, name: str = "recorded", about: Mapping[str, Any] | None = None) -> None:
        self.trace, self.name, self.about = trace, name, dict(about or {})
        self.bound = float(trace.policy.get("bound", DEFAULT_BOUND))
        self.backbone: str | None = trace.policy.get("backbone")
        self.needs_state = any(isinstance(entry, list) for entry in trace.ratio)
        self._first = 0  # the step of the run that the trace begins with
        check_bound(self.bound)
        check_backbone_name(self.backbone)
        trace.check_actions()

    def begin(self, sigmas: Sequence[float]) -> None:
        """Refuse a grid that does not hold the trace's (to 1e-4, the digits a printed table would show)."""
        recorded = self.trace.sigmas
        first = find(recorded, sigmas, _same)
        if first is None and rises(recorded):  # a run with restarts begins anew on each stretch that falls
            there = find(sigmas, recorded, _same)
            first = None if there is None else -there
        if first is None:
            raise GridError(
                f"This trace was recorded on {len(recorded) - 1} steps from σ {recorded[0]:.4g}, and the run has"
                f" {len(sigmas) - 1} steps from σ {sigmas[0]:.4g} or other σ between: use the same scheduler and steps."
            )
        self._first = first

    def ratio(self, state: StepState) -> Value:
        """The action r of step k + 1 as recorded: a float, or (B,) on the latent's device."""
        step = state.index + 1 - self._first
        if not 0 <= step < self.trace.steps:
            return 0.5  # before the trace, or where the recorded run was cut short
        entry = self.trace.ratio[step]
        return self._per_sample(entry, state) if isinstance(entry, list) else entry

    def _per_sample(self, entry: list[float], state: StepState) -> Tensor:
        assert state.x is not None
        if len(entry) != state.x.shape[0]:
            raise PolicyError(
                f"This trace was recorded for a batch of {len(entry)}, the run has {state.x.shape[0]} images:"
                " use the same batch."
            )
        return torch.tensor(entry, device=state.x.device)

    def to_dict(self) -> dict[str, Any]:
        return describe(self, "recorded", trace=self.trace.to_dict())


def _same(one: float, other: float) -> bool:
    """To the digits that a printed table would show."""
    return abs(one - other) <= 1e-4
