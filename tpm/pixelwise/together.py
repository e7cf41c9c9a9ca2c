"""A policy's deviation on top of a pixel-wise run of a flow model: which t* every pixel is conditioned on.

The policy decides one deviation for a step and image, from the background's σ, as in a run without regions; each pixel
applies it to its own interval (`retimed`). With γ = 0 nothing differs by a bit, and where all pixels share one σ it is
the asynchronous run of `Retimer`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..retiming.contract import Policy, TextCondition, check_backbone
from ..retiming.equations import Value, distinct
from ..retiming.retimer import Retimer
from ..retiming.settings import Retiming
from .policy_map import conditioning_map, coupling_map


class Deviating:
    """One policy over any number of runs."""

    def __init__(self, policy: Policy, retiming: Retiming | None = None) -> None:
        check_backbone(policy, "sd3")
        self.retimer = Retimer(policy, retiming)
        self.background: Value = 0.0  # t* of the background at the step in progress
        self._before: Tensor | None = None  # σ of the step before
        self._sigma = self._told = torch.zeros(0)
        self._here = 0.0  # σ of the background

    def begin(self, grid: Tensor, text: TextCondition | None) -> None:
        """A run starts on the background's grid (S + 1,)."""
        self.retimer.begin(distinct(grid.tolist()), text)
        self._before = None

    def condition(self, here: float, sigma: Tensor, following: Callable[[], Tensor]) -> Tensor:
        """T* of every pixel at σ (B, 1, H, W), with the background at `here`; `following` gives σ after the step."""
        self.background = self.retimer.condition(here)
        self._told = sigma if self._before is None else self._conditioned(self._before, sigma, following)
        self._before, self._sigma, self._here = sigma, sigma, here
        return self._told

    def _conditioned(self, before: Tensor, sigma: Tensor, following: Callable[[], Tensor]) -> Tensor:
        applied = self.retimer.retiming
        deviation = self.retimer.decision.deviation if applied.target == "timestep" else 0.0
        return conditioning_map(
            before,
            sigma,
            deviation,
            t_start=self.retimer.grid[0],
            sigma_min=applied.sigma_min,
            following=following() if applied.within_interval else None,
        )

    def observe(self, sample: Tensor, velocity: Tensor) -> Tensor:
        """Show the policy a step; returns ω·v with each pixel's own ω."""
        observed = self.retimer.observe(sample, self._here, velocity)
        if self.retimer.retiming.target == "velocity":
            return observed
        omega = coupling_map(self._told, self._sigma, self.retimer.retiming.velocity_coupling)
        return velocity * omega.to(velocity) if isinstance(omega, Tensor) else velocity
