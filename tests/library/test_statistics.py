"""The bootstrap in parts."""

import tracemalloc

import numpy as np
import pytest

from asyncdiff.tpm import statistics
from asyncdiff.tpm.statistics import bootstrap


@pytest.mark.parametrize("count", [1, 7, 1023])
def test_parts_draw_what_one_piece_would(count, monkeypatch):
    values = np.random.default_rng(count).normal(size=count)
    whole = np.random.default_rng(5).integers(count, size=(2000, count))
    low, high = np.percentile(values[whole].mean(1), [2.5, 97.5])
    for draws in (1, 3 * count + 1, 1 << 30):
        monkeypatch.setattr(statistics, "_DRAWS", draws)
        found = bootstrap(values, seed=5)
        assert (found.mean, found.low, found.high) == (values.mean(), low, high)
    assert bootstrap(values, seed=6) != found or count == 1


def test_many_values_take_little_memory():
    values = np.random.default_rng(0).normal(size=30_000)
    tracemalloc.start()
    bootstrap(values, resamples=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 2**20  # in one piece 48 MB, and 960 MB for the usual 2,000 resamples
