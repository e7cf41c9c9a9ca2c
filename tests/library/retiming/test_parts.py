"""Parts of a run and grids that rise, without a host: where they lie, what each step is told, what is refused."""

import pytest
import torch

from asyncdiff.tpm.errors import GridError
from asyncdiff.tpm.policies import Constant, Curve, Learned, Recorded, TextCondition
from asyncdiff.tpm.policies.network import TPM, TPMConfig
from asyncdiff.tpm.retiming.courses import StateRun, course_of, course_on_device
from asyncdiff.tpm.retiming.foretold import rehearse
from asyncdiff.tpm.retiming.parts import Stretch, falling, place, rises
from asyncdiff.tpm.retiming.retimer import Retimer
from asyncdiff.tpm.retiming.rising import RisingRun
from asyncdiff.tpm.retiming.settings import Retiming
from asyncdiff.tpm.retiming.trace import Trace

WHOLE = (1.0, 0.8, 0.65, 0.5, 0.3, 0.1, 0.0)
CURVE = Curve([(0.0, -0.2), (0.5, 0.4), (1.0, 0.1)])


def told(policy, retiming, part, course=course_of):
    """t* at each step of a part of WHOLE, and the trace."""
    retimer = Retimer(policy, retiming)
    retimer.begin(part, whole=WHOLE)
    run = course(retimer)
    x = torch.zeros(2, 1, 2, 2)
    values = []
    for sigma in part[:-1]:
        values.append(
            float(run.condition(torch.tensor([sigma], dtype=torch.float64) if course is on_device else sigma))
        )
        run.observe(x, x)
    run.settle()
    return values, retimer.trace


def on_device(retimer):
    return course_on_device(retimer, torch.zeros(2, 4, 4, 4))


@pytest.mark.parametrize("course", [course_of, StateRun, on_device])
@pytest.mark.parametrize("policy", [Constant(0.3), CURVE])
def test_parts_are_told_what_the_whole_is_told(policy, course):
    retiming = Retiming(tail_sync=2)
    whole, trace = told(policy, retiming, WHOLE, course)
    first, before = told(policy, retiming, WHOLE[:4], course)
    second, after = told(policy, retiming, WHOLE[3:], course)
    assert first + second == pytest.approx(whole, abs=1e-9)
    assert whole == pytest.approx(rehearse(policy, retiming, WHOLE).t_star)
    both = after.after(before)
    assert both.sigmas == list(WHOLE)
    assert both.t_star == pytest.approx(trace.t_star)
    assert both.deviation == pytest.approx(trace.deviation)


def tpm_run(policy, part, course, before=None):
    """As `told`, by a policy that reads a state: x of each step is fixed; with what is carried on."""
    retimer = Retimer(policy)
    retimer.begin(part, TextCondition(torch.ones(2, 5, 12), torch.ones(2, 8)), WHOLE)
    if before is not None:
        retimer.resume(before)
    run, values = course(retimer), []
    for sigma in part[:-1]:
        x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(int(1000 * sigma)))
        asked = torch.tensor([sigma], dtype=torch.float64) if course is on_device else sigma
        values.append(torch.as_tensor(run.condition(asked)).expand(2).tolist())
        run.observe(x, x.roll(1))
    run.settle()
    return values, retimer.carried


@pytest.mark.parametrize("course", [StateRun, on_device])
def test_a_policy_that_reads_a_state_goes_on_with_what_was_carried(course):
    torch.manual_seed(0)
    sizes = {"latent_channels": 4, "context_dim": 12, "pooled_dim": 8, "width": 16, "heads": 2, "layers": 1, "grid": 2}
    network = TPM(TPMConfig("sd3", **sizes))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    policy = Learned(network)
    whole, carried = tpm_run(policy, WHOLE, course)
    assert carried is None
    first, carried = tpm_run(policy, WHOLE[:4], course)
    assert carried.index == 2
    second, _ = tpm_run(policy, WHOLE[3:], course, carried)
    assert first + second == [pytest.approx(entry, abs=1e-6) for entry in whole]
    alone, _ = tpm_run(policy, WHOLE[3:], course)
    assert alone[0] == pytest.approx([0.5, 0.5])
    assert whole[3] != pytest.approx([0.5, 0.5], abs=1e-3)


def test_where_a_part_lies():
    assert place(WHOLE, None) == (WHOLE, Stretch(0, 6))
    assert place(WHOLE[2:5], WHOLE) == (WHOLE, Stretch(2, 4))
    assert place((0.65, 0.5, 0.0), WHOLE) == ((1.0, 0.8, 0.65, 0.5, 0.0), Stretch(2, 4))
    for foreign in ((0.65, 0.3), (0.9, 0.5), (0.3, 0.1, 0.0, -1.0), (0.3, 0.2)):
        with pytest.raises(GridError, match="has no such part"):
            place(foreign, WHOLE)


@pytest.mark.parametrize("course", [course_of, StateRun, on_device])
@pytest.mark.parametrize("deviation", [0.5, -0.5])
def test_a_part_can_be_kept_to_its_own_levels(course, deviation):
    retiming = Retiming(gamma=4.0, within_part=True)
    for part in (WHOLE[:4], WHOLE[3:]):
        values, _ = told(Constant(deviation), retiming, part, course)
        assert max(values) <= part[0] + 1e-9
        assert min(values) >= part[-1] - 1e-9


@pytest.mark.parametrize("course", [course_of, on_device])
def test_an_evaluation_off_the_grid_stays_within_its_part_too(course):
    retimer = Retimer(Constant(0.5), Retiming(gamma=4.0, within_part=True))
    retimer.begin(WHOLE[:4], whole=WHOLE)
    run = course(retimer)
    for sigma in (1.0, 0.8, 0.65, 0.55):
        asked = torch.tensor([sigma], dtype=torch.float64) if course is on_device else sigma
        assert float(run.condition(asked)) >= 0.5 - 1e-9


def test_a_recorded_part_fits_the_whole_run():
    _, trace = told(Constant(0.3), Retiming(), WHOLE[3:])
    again, _ = told(Recorded(trace), Retiming(), WHOLE)
    assert again == pytest.approx([*WHOLE[:3], *trace.t_star], abs=1e-6)
    with pytest.raises(GridError, match="recorded on 3 steps"):
        Recorded(trace).begin((0.5, 0.3))


# -------------------------------------------------------------------------------------------------- rising grids

RESTART = (1.0, 0.7, 0.4, 0.2, 0.3, 0.6, 0.4, 0.2, 0.0)


def risen(policy, points, sigmas=None):
    retimer = Retimer(policy)
    retimer.begin_rising(points)
    run = RisingRun(retimer)
    x, values = torch.zeros(1, 1, 2, 2), []
    for sigma in sigmas or points[:-1]:
        values.append(float(run.condition(sigma)))
        run.observe(x, x)
    run.settle()
    return values, retimer.trace


def test_where_a_grid_falls():
    assert rises(RESTART)
    assert not rises(WHOLE)
    assert falling(RESTART) == [Stretch(0, 3), Stretch(5, 8)]
    assert falling((0.1, 0.5, 0.9)) == []


def test_only_falling_steps_after_the_first_deviate():
    values, trace = risen(Constant(0.5), RESTART)
    assert trace.deviation == pytest.approx([0, 0.5, 0.5, 0, 0, 0, 0.5, 0.5])
    assert values == pytest.approx(trace.t_star)
    assert "2 falling stretches" in trace.notes[0]


def test_unsampling_is_synchronous_and_recorded():
    values, trace = risen(Constant(0.5), (0.1, 0.5, 0.9))
    assert values == [0.1, 0.5]
    assert trace.deviation == [0, 0]


def test_a_trace_of_a_rising_run_is_kept_and_repeated(tmp_path):
    values, trace = risen(CURVE, RESTART)
    kept = Trace.load(trace.save(tmp_path / "trace.json"))
    assert (kept.sigmas, kept.notes) == (trace.sigmas, trace.notes)
    assert risen(Recorded(kept), RESTART)[0] == pytest.approx(values, abs=1e-9)


def test_points_that_repeat_or_leave_the_line_are_refused():
    for points, reason in (((0.5, 0.5, 0.6), "strictly"), ((1.05, 0.5, 0.6), "beyond the noise"), ((0.5,), "two")):
        with pytest.raises(GridError, match=reason):
            Retimer(Constant(0.1)).begin_rising(points)
