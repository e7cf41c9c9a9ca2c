"""Paired comparisons: means and bootstrap intervals over prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


_DRAWS = 1 << 20
"""Values drawn at a time: 8 MB of positions, however many values there are."""


def bootstrap(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of ``values`` (n,) and the percentile interval over resampled means."""
    return _interval(float(values.mean()), _resampled_means(values[:, None], resamples, seed)[:, 0])


def farther(errors: np.ndarray, others: np.ndarray, resamples: int = 2000, seed: int = 0) -> Interval:
    """How much farther the mean of ``errors`` (n,) is from 0 than that of ``others`` (n,), which are paired."""
    means = abs(_resampled_means(np.stack([errors, others], 1), resamples, seed))
    return _interval(abs(float(errors.mean())) - abs(float(others.mean())), means[:, 0] - means[:, 1])


def _resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means (resamples, m) over rows of ``values`` (n, m), drawn with replacement."""
    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS // len(values))
    parts = (min(rows, resamples - start) for start in range(0, resamples, rows))
    drawn = (rng.integers(len(values), size=(part, len(values))) for part in parts)
    return np.concatenate([np.stack([column[rows].mean(1) for column in values.T], 1) for rows in drawn])


def _interval(mean: float, resampled: np.ndarray) -> Interval:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(mean, float(low), float(high))
