"""Runs of γ Sweep share their first evaluation, and those of the latest sweep are not made again."""

import gc
import weakref

import pytest
import torch

from support import stand_ins, sweeps
from support.retiming_runs import Log, asynchronous

pytestmark = pytest.mark.host


@pytest.fixture
def swept(comfy, model, tpm, monkeypatch):
    """A function that runs the node and counts the evaluations of the network; the VAE passes latents on."""
    node = sweeps.forgetful(monkeypatch)
    monkeypatch.setattr(comfy.VAEDecode, "decode", lambda self, vae, latent: (latent["samples"][:, :3].movedim(1, -1),))
    count = []
    model.model.diffusion_model.register_forward_pre_hook(lambda *_: count.append(1))
    inputs = sweeps.inputs_of(model)

    def go(gammas, **changes):
        count.clear()
        given = {**inputs, **changes}
        _, _, latents = node.execute(**given, gammas=gammas).args
        return latents["samples"], len(count)

    go.inputs = inputs
    return go


def alone(comfy, model, inputs, gamma):
    names = ("seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image")
    patched = asynchronous(model, gamma=gamma, deviation=0.3)
    return comfy.common_ksampler(patched, *(inputs[name] for name in names))[0]["samples"]


def test_a_sweep_evaluates_the_first_step_once(comfy, model, swept):
    gammas = (0.0, 0.5, 1.0, 2.0)
    latents, evaluations = swept("0, 0.5, 1, 2")
    assert evaluations == 4 * 8 - 3
    assert evaluations <= 0.91 * 4 * 8
    for latent, gamma in zip(latents, gammas, strict=True):
        assert torch.equal(latent[None], alone(comfy, model, swept.inputs, gamma))


def test_changing_one_of_four_values_costs_a_quarter(comfy, model, swept):
    before, _ = swept("0, 0.5, 1, 2")
    after, evaluations = swept("0, 0.5, 1, 1.5")
    assert evaluations == 7
    assert torch.equal(after[:3], before[:3])
    assert torch.equal(after[3:], alone(comfy, model, swept.inputs, 1.5))
    assert swept("2, 1.5")[1] == 0


@pytest.mark.parametrize(
    "change", ["seed", "steps", "cfg", "sampler_name", "positive", "latent_image", "policy", "tail_sync", "model"]
)
def test_another_setting_is_another_sweep(swept, change):
    from asyncdiff.tpm.policies import Constant

    other = {
        "seed": 2, "steps": 7, "cfg": 2.0, "sampler_name": "heun", "positive": stand_ins.conditioning(5),
        "latent_image": {"samples": torch.ones(1, 16, 8, 8)}, "policy": Constant(0.2), "tail_sync": 1,
        "model": swept.inputs["model"].clone(),
    }  # fmt: skip
    swept("1, 2")
    assert swept("1, 2")[1] == 0
    assert swept("1, 2", **{change: other[change]})[1] > 0


def test_equal_policies_and_widgets_are_one_setting(swept):
    from asyncdiff.tpm.policies import Constant

    swept("1, 2")
    assert swept("1, 2", policy=Constant(0.3))[1] == 0


def test_what_wants_to_see_every_evaluation_does(comfy, model, swept):
    """A guidance that adds up over the steps, say."""
    from comfy.patcher_extension import WrappersMP

    seen = []
    watched = model.clone()
    watched.add_wrapper(WrappersMP.PREDICT_NOISE, lambda executor, *args: (seen.append(1), executor(*args))[1])
    swept("0, 1", model=watched)
    assert len(seen) == 16
    guided = model.clone()
    guided.set_model_sampler_post_cfg_function(lambda args: (seen.append(1), args["denoised"])[1])
    seen.clear()
    swept("0, 1", model=guided)
    assert len(seen) == 16


def test_a_tpm_decides_from_a_first_step_that_is_shared(models, run, tpm):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.nodes.retiming.shared import FirstEvaluation
    from asyncdiff.tpm.policies import Learned

    first, logs = FirstEvaluation(), (Log(), Log())
    made = [run(attach(models["sd35"], Learned(tpm), None, log, first), steps=5) for log in logs]
    assert torch.equal(*made)
    assert logs[0].traces == logs[1].traces
    assert torch.equal(made[0], run(attach(models["sd35"], Learned(tpm)), steps=5))


def test_other_noise_is_another_first_step(model, run):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.nodes.retiming.shared import FirstEvaluation
    from asyncdiff.tpm.policies import Constant

    first = FirstEvaluation()
    for seed in (1, 2):
        found = run(attach(model, Constant(0.3), None, None, first), seed=seed)
        assert torch.equal(found, run(attach(model, Constant(0.3)), seed=seed))


def test_nothing_of_a_setting_is_kept_alive(comfy):
    from asyncdiff.nodes.retiming.shared import Made, Remembered

    kept, thing = Remembered(), torch.nn.Identity()
    kept.keep(kept.under(thing, [torch.zeros(2)], {"a": 1}), 1.0, Made(torch.zeros(1), None))
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None
    assert kept.under(torch.nn.Identity(), [torch.zeros(2)], {"a": 1}).recall(1.0) is None


def test_too_much_is_not_kept(comfy, monkeypatch):
    from asyncdiff.nodes.retiming import shared

    monkeypatch.setattr(shared, "MOST_BYTES", 100)
    kept = shared.Remembered()
    runs = kept.under("model", "setting")
    for gamma in (0.0, 1.0, 2.0):
        kept.keep(runs, gamma, shared.Made(torch.zeros(10), None))
    assert [runs.recall(gamma) is not None for gamma in (0.0, 1.0, 2.0)] == [False, True, True]
