"""How far one iteration may move a policy: the update ends in time, and the learning rate follows."""

import math

import pytest
import torch

from asyncdiff.tpm.training.grpo.recipe import Recipe, RecipeError
from asyncdiff.tpm.training.grpo.trainer import make_tpm
from asyncdiff.tpm.training.grpo.update import Learner, TrustRegion, divergence
from support.toy_studio import ToyStudio
from support.toy_training import RECIPE, journal, rolled, same_weights, trainer, weights

MINIBATCHES = [[0, 1], [2, 3], [4, 5], [6, 7]]


def updated(rate, trust, minibatches=MINIBATCHES):
    """One update with plain gradient steps; returns its numbers, and the optimiser."""
    tpm, batch = rolled(8, tpm=make_tpm(ToyStudio(), RECIPE))
    optimizer = torch.optim.SGD(tpm.parameters(), lr=rate)
    advantage = torch.tensor([1.0, -1.0] * 4)
    return Learner(tpm, optimizer, 0.2, trust=trust).update([batch], advantage, minibatches), optimizer


def test_the_divergence_is_schulmans_third_estimator():
    logs = torch.tensor([0.1, -0.3, 0.0, 0.7])
    expected = float((logs.exp() - 1 - logs).mean())
    assert divergence(logs.tolist()) == pytest.approx(expected, rel=1e-6)
    assert divergence([]) == 0
    assert divergence([0.0, 0.0]) == 0
    assert math.isfinite(divergence([1e6]))


def test_an_update_ends_where_the_policy_has_moved_far_enough():
    free, _ = updated(0.5, None)
    assert divergence(free.log_ratio[2:]) > 1e-3  # the control: without a limit it goes on
    assert len(free.ratio) == 8
    assert free.left == 0
    held, _ = updated(0.5, TrustRegion(1e-3, 0.5))
    assert held.left > 0
    assert len(held.ratio) == 8 - 2 * (held.left - 1)  # the minibatch that found it is among those seen
    assert held.gradient_norm == free.gradient_norm[: len(held.gradient_norm)]


def test_a_wide_limit_changes_nothing():
    free, _ = updated(1e-3, None)
    wide, _ = updated(1e-3, TrustRegion(100.0, 1e-3))
    assert wide.ratio == free.ratio
    assert wide.left == 0


@pytest.mark.parametrize(("moved", "factor"), [(0.02, 1 / 1.5), (0.006, 1 / 1.5), (0.003, 1.0), (0.001, 1.5)])
def test_the_learning_rate_follows_the_divergence(moved, factor):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    TrustRegion(0.01, 1.0).adapt(optimizer, moved)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * factor)


def test_the_learning_rate_never_exceeds_the_recipes():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    TrustRegion(0.01, 0.012).adapt(optimizer, 0.0)
    assert optimizer.param_groups[0]["lr"] == 0.012


def test_a_resumed_run_goes_on_with_the_learning_rate_that_it_had(tmp_path):
    settings = {"kl_limit": 1e-4, "learning_rate": 0.05, "probe_every": 3}
    trainer(tmp_path / "whole", iterations=6, **settings).run()
    trainer(tmp_path / "parts", iterations=3, **settings).run()
    trainer(tmp_path / "parts", iterations=6, **settings).run(resume=True)
    records = journal(tmp_path / "whole")
    assert records[-1]["learning_rate"] < 0.05
    assert journal(tmp_path / "parts") == records
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.parametrize("limit", [-0.1, math.inf, math.nan])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(RecipeError, match="kl_limit must be"):
        Recipe(kl_limit=limit)
