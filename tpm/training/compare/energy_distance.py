"""The energy distance between generated and true images of the same prompts: 2·E|X − Y| − E|X − X'| − E|Y − Y'|.

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
    """Distances of features (n, d) of one image for each prompt to features (n, R, d) of R true images of each.

    Both sets have the same prompts, so that their mixture adds nothing to the distance. Two images of one prompt are
    never compared: then the distance has no bias, and is 0 on average where images are true; it may fall below 0.
    """

    def __init__(self, real: Tensor) -> None:
        self._real = real.double()
        self._inside = self._between(self._real, self._real)

    def to(self, features: Tensor) -> float:
        """The distance of one set."""
        return _mean_of_all(self.table(features))

    @staticmethod
    def compare(tables: Mapping[str, np.ndarray], name: str) -> tuple[float, dict[str, Interval]]:
        """The distance of one set, and the difference to each of the other sets; 95 % intervals over prompts.

        tables: of every set, see `table`.
        """
        own, count = tables[name], len(tables[name])
        drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(float)
        differences = {}
        for other, table in tables.items():
            if other != name:
                low, high = np.percentile(_mean_apart(own - table, drawn), [2.5, 97.5])
                differences[other] = Interval(_mean_of_all(own - table), float(low), float(high))
        return _mean_of_all(own), differences

    def table(self, features: Tensor) -> np.ndarray:
        """What each pair of prompts contributes to the distance of one set, (n, n)."""
        images = features.double().unsqueeze(1)
        across = self._between(images, self._real)
        return across + across.T - self._between(images, images) - self._inside

    @staticmethod
    def _between(a: Tensor, b: Tensor) -> np.ndarray:
        """Mean distances (n, n) between the images of two prompts; a (n, A, d) and b (n, B, d)."""
        pairs = torch.cdist(a.flatten(0, 1), b.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist")
        return pairs.view(len(a), a.shape[1], len(b), b.shape[1]).mean((1, 3)).numpy()


def _mean_of_all(table: np.ndarray) -> float:
    """The mean over pairs of different prompts."""
    return float(_mean_apart(table, np.ones((1, len(table))))[0])


def _mean_apart(table: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means (r,) over pairs of different prompts, for r sets of weights (r, n); 0 where only one prompt has weight."""
    apart = table - np.diag(np.diag(table))
    total = weights.sum(1) ** 2 - (weights**2).sum(1)
    return ((weights @ apart) * weights).sum(1) / np.maximum(total, 1)
