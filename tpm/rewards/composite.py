"""The composite reward: z-scores within a group, weighed and averaged (AsyncDiff, Eq 16)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import RewardError
from .catalogue import RESIDUAL_NOISE

EPSILON = 1e-8
NOISE_FLOOR = 0.5
"""8-bit levels below which less noise earns nothing more: a reward there would be one for blur."""


@dataclass(frozen=True)
class Composite:
    """Everything that was computed: raw scores and z-scores (n,) by metric, and the reward R (n,), in float64."""

    raw: dict[str, Tensor]
    z: dict[str, Tensor]
    reward: Tensor

    def ranking(self) -> list[int]:
        """Positions of the images, best first; equal rewards keep their order."""
        return torch.argsort(self.reward, descending=True, stable=True).tolist()


def composite(
    scores: Mapping[str, Tensor],
    *,
    weights: Mapping[str, float] | None = None,
    groups: Sequence[Hashable] | None = None,
    ddof: int = 0,
    epsilon: float = EPSILON,
    least_std: Mapping[str, float] | None = None,
) -> Composite:
    """R = Σ w (S − μ) / (σ + ε) / Σ |w| over the metrics, μ and σ within each group.

    Args:
        scores: raw scores (n,) by metric. Residual noise counts as −max(noise, `NOISE_FLOOR`): less is better.
        weights: by metric, 1 where not given.
        groups: one label per image, such as its prompt; all images are one group without it.
        ddof: σ divides by the group's size minus this, 0 or 1.
        epsilon: added to σ.
        least_std: by metric, the least σ to divide by: without it a group without differences is blown up to ±1.

    A group of one, or one whose scores are all equal, gets 0. Raises RewardError: different lengths, scores that are
    not finite, weights that are unknown or all 0.
    """
    raw = {name: values.detach().double().cpu().flatten() for name, values in scores.items()}
    weigh = _weights(raw, weights or {})
    count = _count(raw, groups)
    if ddof not in (0, 1):
        raise RewardError(f"ddof is 0 or 1, got {ddof}.")
    members = _members(groups if groups is not None else [None] * count)
    least = least_std or {}
    z = {
        name: _standardised(better_is_more(name, values), members, ddof, epsilon, least.get(name, 0.0))
        for name, values in raw.items()
    }
    total = sum((weigh[name] * values for name, values in z.items()), torch.zeros(count, dtype=torch.float64))
    return Composite(raw, z, total / sum(abs(weight) for weight in weigh.values()))


def better_is_more(name: str, values: Tensor) -> Tensor:
    """Scores turned so that more is better: residual noise counts as −max(noise, `NOISE_FLOOR`)."""
    return -values.clamp_min(NOISE_FLOOR) if name == RESIDUAL_NOISE else values


def _standardised(values: Tensor, members: Sequence[Tensor], ddof: int, epsilon: float, least_std: float) -> Tensor:
    result = torch.zeros_like(values)
    for rows in members:
        group = values[rows]
        if len(group) > 1 and group.max() > group.min():
            result[rows] = (group - group.mean()) / (group.std(correction=ddof).clamp_min(least_std) + epsilon)
    return result


def _members(groups: Sequence[Hashable]) -> list[Tensor]:
    """The rows of each group."""
    rows: dict[Hashable, list[int]] = {}
    for row, label in enumerate(groups):
        rows.setdefault(label, []).append(row)
    return [torch.tensor(group) for group in rows.values()]


def _count(raw: Mapping[str, Tensor], groups: Sequence[Hashable] | None) -> int:
    """The number of images, on which everything must agree."""
    if not raw:
        raise RewardError("There is nothing to combine; give the scores of one metric or more.")
    lengths = {name: len(values) for name, values in raw.items()}
    if groups is not None:
        lengths["groups"] = len(groups)
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise RewardError(f"The metrics have different numbers of images ({found}); score the same images with each.")
    bad = [name for name, values in raw.items() if not torch.isfinite(values).all()]
    if bad:
        raise RewardError(f"{bad[0]} gave scores that are not finite; they cannot be combined.")
    return next(iter(lengths.values()))


def _weights(raw: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, float]:
    unknown = [name for name in weights if name not in raw]
    if unknown:
        raise RewardError(f"There is a weight for {unknown[0]}, but no scores; there are {', '.join(raw)}.")
    chosen = {name: float(weights.get(name, 1.0)) for name in raw}
    if raw and not 0 < sum(abs(weight) for weight in chosen.values()) < float("inf"):
        raise RewardError("The weights must be finite and not all 0.")
    return chosen
