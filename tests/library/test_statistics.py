"""The bootstrap in parts."""

import tracemalloc

import numpy as np
import pytest

from asyncdiff.tpm import statistics
from asyncdiff.tpm.statistics import bootstrap, farther


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


def test_farther_compares_sizes_of_means():
    """Errors of either sign are as bad; the interval is that of the paired difference of the sizes."""
    rng = np.random.default_rng(1)
    near = rng.normal(0.0, 0.3, 400) - 0.1
    far = near - 0.5
    found = farther(far, near)
    assert found.mean == pytest.approx(0.5, abs=1e-9)
    assert 0.49 < found.low <= found.high < 0.51
    assert farther(-far, near).mean == pytest.approx(0.5, abs=1e-9)
    assert farther(near, far).high < 0
