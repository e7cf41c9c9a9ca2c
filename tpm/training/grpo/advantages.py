"""From raw scores to learning signals: per-metric z-scores within a group, R (Eq 16), and the group's advantages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import AsyncDiffError
from ...rewards.composite import composite

ADVANTAGE_LIMIT = 5.0
ADVANTAGE_EPSILON = 1e-4
FLOOR = 0.1  # share of a metric's usual standard deviation; differences far below it are not worth a whole σ
MOMENTUM = 0.98


class SignalError(AsyncDiffError):
    """The scores of an iteration cannot be learned from."""


@dataclass
class RunningStd:
    """How much each metric usually varies within a group: a running mean of its standard deviation."""

    values: dict[str, float] = field(default_factory=dict)

    def update(self, deviations: Mapping[str, float]) -> None:
        """Take in this iteration's standard deviations."""
        for name, value in deviations.items():
            self.values[name] = MOMENTUM * self.values[name] + (1 - MOMENTUM) * value if name in self.values else value

    def floors(self) -> dict[str, float]:
        """The least σ that each metric's z-score divides by."""
        return {name: FLOOR * value for name, value in self.values.items()}


def rewards(
    scores: Mapping[str, Tensor], groups: Sequence[int], weights: Mapping[str, float] | None, usual: RunningStd
) -> Tensor:
    """R (n,) of Eq 16 in float64, z-scored within each group with the floors of `usual`, which is updated."""
    bad = [name for name, values in scores.items() if not torch.isfinite(values).all()]
    if bad:
        raise SignalError(f"The metric {bad[0]} gave scores that are not finite; this iteration teaches nothing.")
    usual.update({name: within_group_std(values.double(), groups) for name, values in scores.items()})
    return composite(scores, weights=weights, groups=groups, least_std=usual.floors()).reward


def advantages(reward: Tensor, groups: Sequence[int]) -> Tensor:
    """A = (R − mean) / (std + 1e-4) within each group, limited to ±5. Shape (n,), float64."""
    result = torch.zeros_like(reward)
    labels = torch.tensor(groups)
    for label in labels.unique():
        rows = labels == label
        group = reward[rows]
        result[rows] = (group - group.mean()) / (group.std(correction=0) + ADVANTAGE_EPSILON)
    return result.clamp(-ADVANTAGE_LIMIT, ADVANTAGE_LIMIT)


def within_group_std(values: Tensor, groups: Sequence[int]) -> float:
    """The standard deviation within groups, averaged over the groups."""
    labels = torch.tensor(groups)
    deviations = [values[labels == label].std(correction=0) for label in labels.unique()]
    return float(torch.stack(deviations).mean())
