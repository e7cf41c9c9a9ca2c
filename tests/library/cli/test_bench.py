"""What it costs: arithmetic on the meta device, pairs of runs, and nothing that waits for the device."""

import pytest
import torch

pytest.importorskip("diffusers")

from asyncdiff.tpm.cli.bench import retiming
from asyncdiff.tpm.cli.bench.operators import Decided, Operators, operators, run_operators, tpm_operators
from asyncdiff.tpm.policies import Constant, Curve, Recorded
from asyncdiff.tpm.policies.network import SD35

TINY = {"width": 16, "heads": 2, "layers": 1, "grid": 2}


@pytest.mark.parametrize(("backbone", "teraflop"), [("sd3", 4.9), ("flux", 21.5)])
def test_a_tpm_call_is_less_than_a_thousandth_of_an_evaluation(backbone, teraflop):
    found = retiming.flops(backbone)
    assert found.denoiser / 1e12 == pytest.approx(teraflop, rel=0.1)
    assert 1e9 < found.tpm < 2e9
    assert found.share < retiming.MAX_SHARE
    assert 3.5 * found.share < found.training_share(15) < 4 * found.share


def test_a_tpm_call_is_few_operators():
    found = tpm_operators(SD35)
    assert found.called <= retiming.MOST_OPERATORS
    assert found.computing <= 64  # 126 when every map was read on its own and positions were made anew


@pytest.mark.parametrize(("policy", "most"), [(Constant(0.2), 4), (Decided(), 36)])
def test_finding_a_step_on_a_device_is_few_operators(policy, most):
    assert run_operators(policy).called <= most  # 29 and 108 when every decision was in a table on the device


def test_control_the_operators_of_a_call_are_counted_without_views():
    x = torch.ones(4, 4)
    assert operators(lambda: (x + 1).t().sin()) == Operators(called=3, computing=2)


def test_no_policy_adds_a_synchronisation_per_step(studio):
    recorded = Recorded(studio.render(["a"], [0], Constant(0.1), steps=4, grid="scheduler").trace)
    for policy in (Constant(0.2), Curve([(0.2, 0.1), (0.9, 0.3)]), retiming.untrained_policy(studio, **TINY)):
        waits = retiming.synchronisations(studio, policy, "a")
        assert waits.per_step == 0, policy.name
        assert waits.per_run <= 3  # the grid, and where in it the first evaluation is
    assert retiming.count_waits(studio, recorded, "a", 4) - retiming.count_waits(studio, None, "a", 4) <= 3


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0].item(),
        lambda x: float(x[0]),
        lambda x: bool(x[0] > 0),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.to(device="cpu"),
        lambda x: x.numpy(),
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
    ],
)
def test_control_the_counters_see_every_kind_of_wait(wait):
    x = torch.ones(3)
    with retiming.ScalarReads() as reads, retiming.Transfers() as transfers:
        x = x + 1
        assert reads.count + transfers.count == 0
        wait(x)
    assert reads.count + transfers.count == 1


def test_control_a_policy_that_waits_is_caught(studio):
    class Waiting(Constant):
        def ratio(self, state):
            return torch.tensor(0.5).item()

    assert retiming.synchronisations(studio, Waiting(0.1), "a").per_step == 1


def test_overhead_interleaves_pairs(studio):
    timed = retiming.overhead(studio, Constant(0.2), "a", steps=2, pairs=3)
    assert len(timed.plain) == len(timed.retimed) == 3
    assert timed.ratio > 0


def test_without_a_pipeline_the_report_is_the_arithmetic():
    rows = retiming.report(None, "a")
    assert [what for what, _, _ in rows] == [
        "TPM call / SD3.5-Medium evaluation, FLOPs",
        "TPM / SD3.5-Medium while training, 15 steps, FLOPs",
        "TPM call / Flux.1-dev evaluation, FLOPs",
        "TPM / Flux.1-dev while training, 10 steps, FLOPs",
        "TPM call: operators, prompt not included",
        "Evaluation on a device, TPM: operators beside its call",
        "Evaluation on a device, constant: operators",
    ]
