"""A sampler whose σ is on a device: the host never waits for it, and the pictures are the same to the bit."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from support import waits
from support.retiming_runs import Log, asynchronous, block_after_block, call

pytestmark = pytest.mark.host


@pytest.fixture
def remote(comfy, monkeypatch):
    """Tensors of the stand-in device count as such."""
    from asyncdiff.nodes.retiming import run as host_run

    monkeypatch.setattr(host_run, "waits_for", waits.waits_for)


@pytest.fixture
def browser(comfy, monkeypatch):
    """A server that keeps what it sends to a browser that looks on."""
    from server import PromptServer

    sent = []
    server = SimpleNamespace(client_id="here", send_sync=lambda event, data, sid: sent.append(data))
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    return sent


def policies(tpm):
    from asyncdiff.tpm.policies import Constant, Curve, Learned

    return {"constant": Constant(0.4), "curve": Curve([(0.1, -0.2), (0.9, 0.4)]), "tpm": Learned(tpm)}


CASES = list(itertools.product(("constant", "curve", "tpm"), (0.0, 1.0)))


def attached(model, tpm, name, coupling=0.0, watcher=None, **settings):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.retiming.settings import Retiming

    return attach(model, policies(tpm)[name], Retiming(velocity_coupling=coupling, **settings), watcher)


# ------------------------------------------------------------------------------------------------------ no waits


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(("name", "coupling"), [*CASES, ("constant", None)])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_no_wait_is_added_per_step(models, run, tpm, remote, browser, name, coupling, watched, sampler):
    from asyncdiff.nodes.retiming.live import LiveView

    model = models["sd35"]
    settings = {"gamma": 0.0} if coupling is None else {"coupling": coupling}
    patched = attached(model, tpm, name, watcher=LiveView("7") if watched else None, **settings)
    per_step, per_run, sites = waits.waits_added(run, patched, sampler=sampler)
    assert per_step == 0, sites
    assert per_run <= 4, sites  # the grid, and at the end of the run what was decided
    assert bool(browser) == watched


def test_control_a_read_by_this_pack_is_counted(models, run, tpm, remote, monkeypatch):
    """Without the search on the device every evaluation reads σ."""
    from asyncdiff.nodes.retiming import run as host_run

    monkeypatch.setattr(host_run, "waits_for", lambda tensor: False)
    per_step, _, sites = waits.waits_added(run, attached(models["sd35"], tpm, "constant"))
    assert per_step == 1
    assert "nodes/retiming/run.py:condition" in sites


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0].item(), lambda x: float(x[0]), lambda x: bool(x[0] > 0), lambda x: x.tolist(), lambda x: x.cpu(),
        lambda x: x.to("cpu"), lambda x: x.numpy(), lambda x: x.nonzero(), lambda x: torch.equal(x, x),
        lambda x: torch.sub(x, x, alpha=x[0]), lambda x: torch.zeros(3).copy_(x),
    ],
)  # fmt: skip
def test_control_every_kind_of_wait_is_seen(wait):
    x = torch.ones(3).as_subclass(waits.OnDevice)
    with waits.counted() as sites:
        torch.zeros(3).copy_(x + 1, non_blocking=True)
        assert not sites
        wait(x)
    assert sum(sites.values()) == 1


# -------------------------------------------------------------------------------------------- the same pictures


def both(run, attach, **options):
    """A run on the host and one on the device: latents and logs."""
    found = []
    for place in (lambda model: model, waits.on_device):
        log = Log()
        found.append((run(place(attach(log)), **options), log))
    return found


def check_same(found):
    (here, log), (there, other) = found
    assert torch.equal(here, there)
    assert other.runs == log.runs
    assert [step for step, _ in other.steps] == [step for step, _ in log.steps]
    for (_, ours), (_, theirs) in zip(other.steps, log.steps, strict=True):
        assert torch.equal(torch.as_tensor(ours).float(), torch.as_tensor(theirs).float())
    assert other.traces == log.traces


@pytest.mark.parametrize(("name", "coupling"), CASES)
@pytest.mark.parametrize(
    "sampler", ["euler", "euler_ancestral", "heun", "dpm_2", "dpmpp_2m", "dpmpp_sde", "lcm", "uni_pc", "dpm_fast"]
)
def test_the_device_decides_as_the_host(models, run, tpm, remote, name, coupling, sampler):
    found = both(run, lambda log: attached(models["sd35"], tpm, name, coupling, log), sampler=sampler, steps=5, batch=2)
    check_same(found)


@pytest.mark.parametrize(
    "settings", [{"tail_sync": 2}, {"within_interval": True}, {"target": "velocity"}, {"gamma": 0.0}]
)
@pytest.mark.parametrize("name", ["constant", "tpm"])
@pytest.mark.parametrize("scheduler", ["simple", "beta", "karras"])
def test_every_setting(models, run, tpm, remote, name, settings, scheduler):
    found = both(
        run, lambda log: attached(models["sd35"], tpm, name, watcher=log, **settings), scheduler=scheduler, steps=6
    )
    check_same(found)


@pytest.mark.parametrize("name", ["constant", "tpm"])
@pytest.mark.parametrize("lie", [0.93, 0.97, 1.03])
def test_a_sampler_that_lies_about_sigma(models, run, tpm, remote, name, lie):
    from comfy.patcher_extension import WrappersMP

    lying = models["sd35"].clone()
    lying.add_wrapper(WrappersMP.PREDICT_NOISE, lambda executor, x, t, *args: executor(x, t * lie, *args))
    check_same(both(run, lambda log: attached(lying, tpm, name, watcher=log), steps=12))


@pytest.mark.parametrize("cache", ["LazyCache", "EasyCache"])
@pytest.mark.parametrize("name", ["constant", "tpm"])
def test_a_cache_that_answers_in_the_networks_place(model, models, run, tpm, remote, name, cache):
    if name == "tpm" and model is not models["sd35"]:
        pytest.skip("the TPM is one for SD3")
    nodes = pytest.importorskip("comfy_extras.nodes_easycache")
    node = getattr(nodes, f"{cache}Node")
    cached = call(node, model, reuse_threshold=3.0, start_percent=0.1, end_percent=0.9, verbose=False)
    check_same(both(run, lambda log: attached(cached, tpm, name, watcher=log), steps=12, cfg=1.0))


@pytest.mark.parametrize("name", ["constant", "tpm"])
def test_block_after_block(comfy, models, tpm, remote, name):
    """An autoregressive sampler: σ falls once for each block, and a finished block is shown at σ = 0."""
    check_same(both(block_after_block, lambda log: attached(models["sd35"], tpm, name, watcher=log)))


def test_an_interrupted_run_tells_what_it_did(models, run, tpm, remote):
    from comfy.patcher_extension import WrappersMP

    log, calls = Log(), itertools.count()

    def stop(executor, *args):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return executor(*args)

    broken = attached(models["sd35"], tpm, "tpm", watcher=log).clone()
    broken.add_wrapper(WrappersMP.PREDICT_NOISE, stop)
    with pytest.raises(KeyboardInterrupt):
        run(waits.on_device(broken), steps=6)
    assert log.traces[-1].steps == 4


def test_nothing_is_done_at_gamma_zero_where_nobody_looks_on(model, run):
    """No policy is asked, and the trace is that of a synchronous run."""
    log = Log()
    log.watching = False
    patched = asynchronous(model, gamma=0.0, watcher=log)
    assert torch.equal(run(patched, steps=4), run(model, steps=4))
    assert log.steps == []
    assert log.traces[0].deviation == [0.0] * 4
    assert log.traces[0].t_star == list(log.runs[0][:-1])
