"""A policy that repeats what another run decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GridError, PolicyError
from ..retiming.contract import StepState, check_backbone_name, check_bound
from ..retiming.equations import DEFAULT_BOUND, Value
from ..retiming.trace import Trace
from .base import describe


class Recorded:
    """Replays the actions r of a trace, on the grid that the trace was recorded on."""

    def __init__(self, trace: Trace, name: str = "recorded", about: Mapping[str, Any] | None = None) -> None:
        self.trace, self.name, self.about = trace, name, dict(about or {})
        self.bound = float(trace.policy.get("bound", DEFAULT_BOUND))
        self.backbone: str | None = trace.policy.get("backbone")
        self.needs_state = any(isinstance(entry, list) for entry in trace.ratio)
        check_bound(self.bound)
        check_backbone_name(self.backbone)
        trace.check_actions()

    def begin(self, sigmas: Sequence[float]) -> None:
        """Refuse a grid that is not the trace's (to 1e-4, the digits a printed table would show)."""
        recorded = self.trace.sigmas
        if len(sigmas) != len(recorded) or any(abs(s - t) > 1e-4 for s, t in zip(sigmas, recorded, strict=True)):
            raise GridError(
                f"This trace was recorded on {len(recorded) - 1} steps from σ {recorded[0]:.4g}, and the run has"
                f" {len(sigmas) - 1} steps from σ {sigmas[0]:.4g} or other σ between: use the same scheduler and steps."
            )

    def ratio(self, state: StepState) -> Value:
        """The action r of step k + 1 as recorded: a float, or (B,) on the latent's device."""
        if state.index + 1 >= self.trace.steps:
            return 0.5  # the recorded run was cut short
        entry = self.trace.ratio[state.index + 1]
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
