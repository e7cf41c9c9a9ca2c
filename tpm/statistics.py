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
    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS // len(values))
    parts = (min(rows, resamples - start) for start in range(0, resamples, rows))
    means = np.concatenate([values[rng.integers(len(values), size=(part, len(values)))].mean(1) for part in parts])
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))
