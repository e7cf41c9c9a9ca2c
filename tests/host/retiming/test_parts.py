"""A run in several parts gives what one run gives; on a grid that rises, only where it falls is anything retimed."""

import pytest
import torch

from support import stand_ins
from support.retiming_runs import Log, asynchronous, call

pytestmark = pytest.mark.host

STEPS = 8
SPLITS = {"2 parts": (3,), "3 parts": (2, 5), "a part a step": tuple(range(1, STEPS))}


@pytest.fixture
def parted(comfy):
    """Sample with the whole SIGMAS, in parts that end at these steps; `model_for(whole)` gives the model of a part."""
    from comfy import sample, samplers

    def go(model_for, sampler, cuts=(), sigmas=None, zero_ends=False):
        if sigmas is None:
            sampling = model_for(None).get_model_object("model_sampling")
            sigmas = samplers.calculate_sigmas(sampling, "simple", STEPS)
        x, latent = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(7)), torch.zeros(2, 16, 8, 8)
        ends = [*cuts, len(sigmas) - 1]
        for first, stop in zip([0, *cuts], ends, strict=True):
            part = sigmas[first : stop + 1].clone()
            if zero_ends:
                part[-1] = 0
            latent = sample.sample_custom(
                model_for(sigmas), x, 4.0, samplers.sampler_object(sampler), part, stand_ins.conditioning(),
                stand_ins.conditioning(1), latent,
            )  # fmt: skip
            x = torch.zeros_like(x)
        return latent

    return go


def off(one, other):
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_parts_give_the_whole_run(model, parted, sampler, split):
    def ours(whole):
        return asynchronous(model, deviation=0.4, whole=whole, tail_sync=1)

    cuts = SPLITS[split]
    stock = off(parted(lambda _: model, sampler, cuts), parted(lambda _: model, sampler))
    whole = parted(ours, sampler)
    assert off(whole, parted(lambda _: model, sampler)) > 1e-3
    assert off(parted(ours, sampler, cuts), whole) < 3 * stock + 1e-6
    alone = parted(lambda _: asynchronous(model, deviation=0.4, tail_sync=1), sampler, cuts)
    assert off(alone, whole) > 1e-3, "control: without the whole grid, the parts are runs of their own"


def test_a_multistep_solver_in_one_part_of_two_steps_or_more(model, parted):
    """dpmpp_2m starts anew in each part, in stock too: the same t* are told, part by part."""
    log, alone = Log(), Log()
    parted(lambda whole: asynchronous(model, whole=whole, watcher=log), "dpmpp_2m", (4,))
    parted(lambda _: asynchronous(model, watcher=alone), "dpmpp_2m")
    assert log.traces[0].t_star + log.traces[1].t_star == pytest.approx(alone.traces[0].t_star, abs=1e-6)
    assert log.traces[1].after(log.traces[0]).sigmas == pytest.approx(alone.traces[0].sigmas, abs=1e-6)


def test_a_part_that_ends_without_noise_ends_the_run(model, parted):
    log = Log()
    parted(lambda whole: asynchronous(model, whole=whole, watcher=log, tail_sync=1), "euler", (4,), zero_ends=True)
    assert log.traces[0].sigmas[-1] == 0
    assert log.traces[0].deviation == [0, 0.4, 0.4, 0]


@pytest.mark.parametrize("given", [True, False])
def test_a_tpm_goes_on_from_the_state_of_the_part_before(models, parted, tpm, given):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.nodes.retiming.record import RunRecord
    from asyncdiff.tpm.policies import Learned

    records = []

    def ours(whole):
        if whole is None:
            return models["sd35"]
        records.append(RunRecord(None))
        before = records[-2] if given and len(records) > 1 else None
        return attach(models["sd35"], Learned(tpm), None, records[-1], whole=whole, before=before)

    whole = parted(ours, "euler")
    wanted = records.pop().trace
    split = parted(ours, "euler", (3, 6))
    if given:
        assert off(split, whole) < 1e-4
        assert records[-1].trace.t_star == [pytest.approx(entry, abs=1e-4) for entry in wanted.t_star]
        assert records[0].carried is not None
        assert records[-1].carried is None, "nothing follows, so nothing is kept"
    else:
        assert off(split, whole) > 1e-3
        assert any("was not given the trace of the part before" in note for note in records[-1].trace.notes)


def test_a_tpm_goes_on_after_a_solver_that_saw_the_end_of_its_part(models, parted, tpm):
    """Heun's second stage is at the next part's first point."""
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.nodes.retiming.record import RunRecord
    from asyncdiff.tpm.policies import Learned

    records = []

    def ours(whole):
        if whole is None:
            return models["sd35"]
        records.append(RunRecord(None))
        before = records[-2] if len(records) > 1 else None
        return attach(models["sd35"], Learned(tpm), None, records[-1], whole=whole, before=before)

    parted(ours, "heun", (4,))
    assert records[-1].trace.notes == []
    assert records[-1].trace.deviation[4] != [0, 0]


def test_a_part_of_another_run_is_refused(model, parted):
    from asyncdiff.tpm.errors import GridError

    foreign = torch.linspace(1, 0, 6)
    with pytest.raises(GridError, match="has no such part: connect the SIGMAS before they are split"):
        parted(lambda _: asynchronous(model, whole=foreign), "euler")


def test_scaled_sigmas_are_refused_before_sampling(model, parted):
    from asyncdiff.tpm.errors import GridError

    with pytest.raises(GridError, match="beyond the noise that the model knows"):
        parted(lambda _: asynchronous(model), "euler", sigmas=torch.tensor([1.05, 0.5, 0.0]))


def test_t_star_stays_with_its_expert(model, parted):
    """Wan 2.2: the high-noise expert is never told a level of the other one, whatever γ."""
    sigmas = torch.tensor([1.0, 0.95, 0.5, 0.45, 0.0])  # the second step is long before a short one
    told = {}
    for within in (False, True):
        log = told[within] = Log()
        parted(
            lambda whole, log=log, within=within: asynchronous(
                model, gamma=2.0, deviation=0.5, whole=whole, within_part=within, watcher=log
            ),
            "euler", (2,), sigmas=sigmas,
        )  # fmt: skip
    assert told[False].traces[1].t_star == pytest.approx([0.05, 0.4], abs=1e-6)
    assert told[False].traces[0].t_star == pytest.approx([1, 0.9], abs=1e-6)
    assert min(told[True].traces[0].t_star) >= 0.5 - 1e-6
    assert max(told[True].traces[1].t_star) <= 0.5 + 1e-6
    low = Log()
    parted(
        lambda whole: asynchronous(model, gamma=2.0, deviation=-0.5, whole=whole, within_part=True, watcher=low),
        "euler", (2,), sigmas=sigmas,
    )  # fmt: skip
    assert low.traces[1].t_star[0] == pytest.approx(0.5, abs=1e-6)


# -------------------------------------------------------------------------------------------------- rising grids


RESTART = [1.0, 0.8, 0.6, 0.4, 0.2, 0.4, 0.6, 0.5, 0.3, 0.0]


def test_a_restart_is_asynchronous_where_it_falls(model, parted):
    log = Log()
    patched = asynchronous(model, watcher=log)
    moved = parted(lambda _: patched, "euler", sigmas=torch.tensor(RESTART))
    trace = log.traces[0]
    assert trace.sigmas == pytest.approx(RESTART)
    assert trace.deviation == pytest.approx([0, 0.4, 0.4, 0.4, 0, 0, 0, 0.4, 0.4])
    assert "σ rises in this run: 2 falling stretches" in trace.notes[0]
    assert not torch.equal(moved, parted(lambda _: model, "euler", sigmas=torch.tensor(RESTART)))
    assert torch.equal(parted(lambda _: patched, "euler", sigmas=torch.tensor(RESTART)), moved)
    trace.check()


def test_unsampling_is_the_stock_run(model, parted):
    log, rising = Log(), torch.tensor([0.1, 0.5, 0.9])
    stock = parted(lambda _: model, "euler", sigmas=rising)
    assert torch.equal(parted(lambda _: asynchronous(model, watcher=log), "euler", sigmas=rising), stock)
    assert log.traces[0].deviation == [0, 0]
    assert "σ rises" in log.traces[0].notes[0]


# --------------------------------------------------------------------------------------------------------- nodes


def advanced(model, **options):
    from asyncdiff.nodes.retiming.nodes_sampling import AsynchronousKSamplerAdvanced as Node
    from asyncdiff.tpm.policies import Constant

    settings = {
        "add_noise": "enable", "noise_seed": 1, "steps": STEPS, "cfg": 4.0, "sampler_name": "euler",
        "scheduler": "simple", "positive": stand_ins.conditioning(), "negative": stand_ins.conditioning(1),
        "latent_image": {"samples": torch.zeros(1, 16, 8, 8)}, "start_at_step": 0, "end_at_step": 10000,
        "return_with_leftover_noise": "disable", "policy": Constant(0.4), "gamma": 1.0, "bound": "from policy",
        "tail_sync": 0, "velocity_coupling": 0.0,
    }  # fmt: skip
    return Node.PREPARE_CLASS_CLONE(None).execute(model=model, **(settings | options)).args


def test_the_advanced_node_is_ksampler_advanced_at_gamma_zero(comfy, model):
    (stock,) = comfy.KSamplerAdvanced().sample(
        model, "enable", 1, STEPS, 4.0, "euler", "simple", stand_ins.conditioning(), stand_ins.conditioning(1),
        {"samples": torch.zeros(1, 16, 8, 8)}, 2, 5, "enable",
    )  # fmt: skip
    latent, _ = advanced(model, gamma=0.0, start_at_step=2, end_at_step=5, return_with_leftover_noise="enable")
    assert torch.equal(latent["samples"], stock["samples"])


def test_the_advanced_node_in_two_parts_is_itself_in_one(model):
    whole, record = advanced(model)
    first, before = advanced(model, end_at_step=3, return_with_leftover_noise="enable")
    both, after = advanced(model, add_noise="disable", latent_image=first, start_at_step=3, before=before)
    assert off(both["samples"], whole["samples"]) < 1e-5
    assert after.trace.t_star == pytest.approx(record.trace.t_star)


def test_apply_gives_the_trace_of_its_run(comfy, model):
    import comfy_extras.nodes_custom_sampler as custom

    from asyncdiff.nodes.retiming.nodes_plots import DeviationPlot
    from asyncdiff.nodes.retiming.nodes_policies import PolicyFromTrace
    from asyncdiff.nodes.retiming.nodes_sampling import ApplyAsynchronousTimesteps as Apply
    from asyncdiff.tpm.errors import PolicyError
    from asyncdiff.tpm.policies import Constant

    settings = {"gamma": 1.0, "bound": "from policy", "tail_sync": 0, "velocity_coupling": 0.0}
    patched, trace = Apply.PREPARE_CLASS_CLONE(None).execute(model, policy=Constant(0.4), **settings).args
    with pytest.raises(PolicyError, match=r"nothing has sampled with it.*input \"after\""):
        PolicyFromTrace.execute(trace=trace)
    sigmas = call(custom.BasicScheduler, model, "simple", 4, 1.0)
    guider = call(custom.BasicGuider, patched, stand_ins.conditioning())
    sampler, noise = call(custom.KSamplerSelect, "euler"), call(custom.RandomNoise, 3)
    latent = call(custom.SamplerCustomAdvanced, noise, guider, sampler, sigmas, {"samples": torch.zeros(1, 16, 8, 8)})
    assert trace.trace.deviation == [0, 0.4, 0.4, 0.4]
    replayed = PolicyFromTrace.execute(trace=trace, after=latent).args[0]
    assert replayed.trace is trace.trace
    chart, *_ = DeviationPlot.PREPARE_CLASS_CLONE(None).execute(trace=trace, title="", after=latent).args
    assert chart.shape[0] == 1
