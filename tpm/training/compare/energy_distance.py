"""The energy distance between two sets of images, by their features: 2·E|X − Y| − E|X − X'| − E|Y − Y'|.

It is 0 only for equal distributions (Székely and Rizzo, "Energy statistics", 2013).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ...statistics import Interval

RESAMPLES = 1000


class EnergyDistance:
    """Distances of sets of features (n, d) to those of real images (m, d), which must be of other prompts."""

    def __init__(self, real: Tensor) -> None:
        self._real = real.double()
        self._inside = _pairs(self._real, self._real)

    def to(self, features: Tensor) -> float:
        """The distance, unbiased: no image is compared with itself. It may fall slightly below 0."""
        weights = np.ones((1, len(features)))
        return float(self._weighed(self._tables(features), weights, np.ones((1, len(self._real))))[0])

    def compare(self, features: Mapping[str, Tensor], name: str) -> tuple[float, dict[str, Interval]]:
        """The distance of one set, and the difference to each of the other sets, which have the same prompts.

        The 95 % intervals resample prompts, the same ones for both sets, and real images.
        """
        rng = np.random.default_rng(0)
        weights, real = (_resampled(rng, len(rows)) for rows in (features[name], self._real))
        own, tables = self.to(features[name]), self._tables(features[name])
        resampled = self._weighed(tables, weights, real)
        differences = {}
        for other, rows in features.items():
            if other != name:
                change = resampled - self._weighed(self._tables(rows), weights, real)
                low, high = np.percentile(change, [2.5, 97.5])
                differences[other] = Interval(own - self.to(rows), float(low), float(high))
        return own, differences

    def _tables(self, features: Tensor) -> tuple[np.ndarray, np.ndarray]:
        rows = features.double()
        return _pairs(rows, self._real), _pairs(rows, rows)

    def _weighed(self, tables: tuple[np.ndarray, np.ndarray], weights: np.ndarray, real: np.ndarray) -> np.ndarray:
        """The distance (r,) for r sets of weights (r, n) of the images and (r, m) of the real ones."""
        across, within = tables
        between = ((weights @ across) * real).sum(1) / (weights.sum(1) * real.sum(1))
        return 2 * between - _spread(within, weights) - _spread(self._inside, real)


def _spread(pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """E|X − X'| over pairs of different images; 0 where a resample holds one image only."""
    return ((weights @ pairs) * weights).sum(1) / np.maximum(weights.sum(1) ** 2 - (weights**2).sum(1), 1)


def _pairs(a: Tensor, b: Tensor) -> np.ndarray:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").numpy()


def _resampled(rng: np.random.Generator, count: int) -> np.ndarray:
    """How often each of `count` rows is drawn, (resamples, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(float)
