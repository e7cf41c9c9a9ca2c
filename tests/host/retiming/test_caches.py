"""Caches leave evaluations out: the trace shows what was evaluated, and a TPM decides from the last state seen."""

import pytest
import torch

from support.retiming_runs import Log, asynchronous, block_after_block, call

pytestmark = pytest.mark.host
STEPS = 12


@pytest.fixture(params=["LazyCache", "EasyCache"])
def cached(request, comfy):
    """A function that puts core's cache on a model; it skips several of the steps."""
    nodes = pytest.importorskip("comfy_extras.nodes_easycache")
    node = getattr(nodes, f"{request.param}Node")
    return lambda model: call(node, model, reuse_threshold=3.0, start_percent=0.1, end_percent=0.9, verbose=False)


@pytest.fixture
def asked(model, monkeypatch):
    """σ of every evaluation that reaches the network: Flux has hooks of other packs around `_forward`, SD3 has none."""
    found = []
    network = model.model.diffusion_model
    name = "_forward" if hasattr(network, "_forward") else "forward"
    stock = getattr(network, name)

    def note(*args, **kwargs):
        options = kwargs.get("transformer_options") or next(a for a in reversed(args) if isinstance(a, dict))
        found.append(float(options["sigmas"][0]))
        return stock(*args, **kwargs)

    monkeypatch.setattr(network, name, note)
    return found


@pytest.mark.parametrize("order", ["cache first", "cache last"])
def test_the_trace_shows_what_was_evaluated(model, run, cached, order, asked):
    log = Log()
    if order == "cache first":
        patched = asynchronous(cached(model), watcher=log)
    else:
        patched = cached(asynchronous(model, watcher=log))
    run(patched, steps=STEPS, cfg=1.0)
    (trace,) = log.traces
    if len(asked) == STEPS:
        pytest.skip("EasyCache does nothing to SD3, which calls no hooks around its network")
    evaluated = [k for k, sigma in enumerate(trace.sigmas[:-1]) if any(abs(sigma - a) < 1e-4 for a in asked)]
    assert len(evaluated) < STEPS - 2
    assert [k for k, d in enumerate(trace.deviation) if d] == evaluated[1:]
    assert [step for step, _ in log.steps] == evaluated
    assert all(trace.t_star[k] == trace.sigmas[k] for k in range(trace.steps) if k not in evaluated)


@pytest.mark.parametrize("order", ["cache first", "cache last"])
def test_a_tpm_decides_from_the_last_state_that_was_seen(models, run, cached, tpm, order):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Learned

    log, model = Log(), models["sd35"]
    if order == "cache first":
        patched = attach(cached(model), Learned(tpm), None, log)
    else:
        patched = cached(attach(model, Learned(tpm), None, log))
    assert torch.isfinite(run(patched, steps=STEPS, cfg=1.0, batch=2)).all()
    assert any(isinstance(entry, list) and entry != [0, 0] for entry in log.traces[0].deviation)


@pytest.mark.parametrize("lie", [0.93, 0.97, 1.03])
def test_a_tpm_bears_a_sampler_that_lies_about_sigma(models, run, tpm, lie):
    """As detail samplers do: the model is shown another σ than the sampler's own."""
    from comfy.patcher_extension import WrappersMP

    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Learned

    def shift(executor, x, timestep, *args):
        return executor(x, timestep * lie, *args)

    lying = models["sd35"].clone()
    lying.add_wrapper(WrappersMP.PREDICT_NOISE, shift)
    log = Log()
    assert torch.isfinite(run(attach(lying, Learned(tpm), None, log), steps=20)).all()
    assert sum(isinstance(entry, list) for entry in log.traces[0].deviation) > 5


def test_an_autoregressive_sampler_runs_block_after_block(comfy, models, tpm):
    """σ falls once for each block, and a finished block is shown at σ = 0 for the memory of the model."""
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Learned

    log = Log()
    first, second = block_after_block(attach(models["sd35"], Learned(tpm), None, log))
    assert torch.equal(first, second)
    assert [isinstance(entry, list) for entry in log.traces[0].deviation] == [False, True, True, True]
