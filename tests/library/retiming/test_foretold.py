"""A run whose decisions are known before it begins gives the retimer's answers, run after run."""

import pytest
import torch

from asyncdiff.tpm.policies import Constant, Curve
from asyncdiff.tpm.retiming.foretold import ForetoldOnDevice, ForetoldRun
from asyncdiff.tpm.retiming.retimer import Retimer
from asyncdiff.tpm.retiming.settings import Retiming

LONG, SHORT = [1.0, 0.8, 0.55, 0.25, 0.0], [0.55, 0.25, 0.0]


@pytest.mark.parametrize("policy", [Constant(0.3), Curve([(0.1, -0.4), (0.9, 0.4)])], ids=["constant", "curve"])
@pytest.mark.parametrize("retiming", [Retiming(), Retiming(gamma=2.0, tail_sync=1, velocity_coupling=1.0)])
def test_every_run_is_the_retimers_whatever_ran_before(policy, retiming):
    again, x = Retimer(policy, retiming), torch.ones(1, 1, 2, 2)
    for grid, whole in [(LONG, None), (LONG, None), (SHORT, None), (SHORT, LONG), (LONG, None)]:
        fresh = Retimer(policy, retiming)
        fresh.begin(grid, whole=whole)
        again.begin(grid, whole=whole)
        run = ForetoldRun(again)
        for sigma in grid[:-1]:
            assert run.condition(sigma) == fresh.condition(sigma)
            wanted = x - sigma * fresh.observe(x, sigma, x / sigma)
            assert torch.allclose(run.observe(x, 0 * x), wanted, atol=1e-6)
        run.settle()
        assert again.trace == fresh.trace
        again.end()


def test_decisions_are_made_once_for_a_grid(monkeypatch):
    asked, policy = [], Constant(0.3)
    monkeypatch.setattr(Constant, "ratio", lambda _, state: asked.append(state.index) or 0.8)
    retimer = Retimer(policy)
    for grid, steps in [(LONG, 3), (LONG, 3), (SHORT, 4), (LONG, 7)]:
        retimer.begin(grid)
        ForetoldRun(retimer).settle()
        assert len(asked) == steps


@pytest.mark.parametrize("deviation", [-0.5, -0.2, 0.0, 0.3, 0.5])
@pytest.mark.parametrize("settings", [{}, {"sigma_min": 0.3}, {"tail_sync": 2}, {"within_part": True}])
@pytest.mark.parametrize(("part", "whole"), [(LONG, None), (LONG[1:4], LONG)])
def test_everywhere_on_the_line_the_answer_is_the_retimers(deviation, settings, part, whole):
    """Also off the grid, at and beyond the limits of t*, and on a device."""
    retiming = Retiming(gamma=2.0, **settings)
    retimers = [Retimer(Constant(deviation), retiming) for _ in range(3)]
    for retimer in retimers:
        retimer.begin(part, whole=whole)
    here, there = ForetoldRun(retimers[1]), ForetoldOnDevice(retimers[2], torch.zeros(1))
    around = [t * (1 + nearby) for t in LONG for nearby in (-1e-3, 1e-6, 1e-3)]
    for sigma in sorted([*around, *(n / 97 for n in range(1, 110))], reverse=True):
        if sigma <= 0:
            continue
        wanted = retimers[0].condition(sigma)
        assert here.condition(sigma) == pytest.approx(wanted, rel=1e-12)
        assert there.condition(torch.tensor([sigma], dtype=torch.float64)).item() == here.condition(sigma)
        assert here.step == retimers[0].step
        assert (here.condition(sigma) == sigma) == (wanted == sigma)
