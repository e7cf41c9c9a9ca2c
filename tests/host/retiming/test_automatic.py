"""Without a policy nothing stops: the model's preset decides, or the run is the stock one, and the trace says so."""

import pytest
import torch

from support import stand_ins

pytestmark = pytest.mark.host


def sampled(model, **options):
    from asyncdiff.nodes.retiming.nodes_sampling import AsynchronousKSampler

    settings = {
        "seed": 1, "steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple",
        "positive": stand_ins.conditioning(), "negative": stand_ins.conditioning(1),
        "latent_image": {"samples": torch.zeros(1, 16, 8, 8)}, "denoise": 1.0, "gamma": 1.0, "bound": "from policy",
        "tail_sync": 0, "velocity_coupling": 0.0,
    }  # fmt: skip
    latent, trace = AsynchronousKSampler.PREPARE_CLASS_CLONE(None).execute(model=model, **(settings | options)).args
    return latent["samples"], trace


def automatic():
    from asyncdiff.nodes.retiming.nodes_policies import AUTOMATIC, LoadTPM

    return LoadTPM.execute(AUTOMATIC, "mode").args[0]


@pytest.mark.parametrize(("name", "preset"), [("sd35", "sd35-coco"), ("flux", "flux-coco")])
@pytest.mark.parametrize("connected", [True, False])
def test_the_models_preset_decides(models, name, preset, connected):
    from asyncdiff.tpm.policies import find_policy

    if name not in models:
        pytest.skip(f"this ComfyUI loads no small model of the family {name}")
    policy = automatic() if connected else None
    latent, trace = sampled(models[name], policy=policy)
    assert torch.equal(latent, sampled(models[name], policy=find_policy(preset))[0])
    assert trace.policy["name"] == preset
    assert f"the model's preset {preset} decides" in trace.notes[0]


def test_a_model_without_a_preset_is_sampled_synchronously(comfy, models, monkeypatch):
    from asyncdiff.nodes.retiming import automatic as module

    monkeypatch.setattr(module, "PRESETS", {})
    latent, trace = sampled(models["sd35"])
    (stock,) = comfy.common_ksampler(
        models["sd35"], 1, 4, 4.0, "euler", "simple", stand_ins.conditioning(), stand_ins.conditioning(1),
        {"samples": torch.zeros(1, 16, 8, 8)},
    )  # fmt: skip
    assert torch.equal(latent, stock["samples"])
    assert trace.notes == ["No policy is connected, and this model has no preset: the run is synchronous."]
    assert trace.deviation == [0, 0, 0, 0]


def test_the_embedded_pipeline_brings_its_own_preset(comfy):
    from asyncdiff.nodes.nodes_embedded import FOLDER, load_model
    from asyncdiff.nodes.retiming.automatic import fitting

    policy, note = fitting(None, load_model(FOLDER).clone())
    assert policy.needs_state
    assert "tiny-sd35-tpm" in note


def test_the_automatic_policy_runs_nothing_by_itself(comfy):
    from asyncdiff.tpm.errors import PolicyError
    from asyncdiff.tpm.retiming.retimer import Retimer

    with pytest.raises(PolicyError, match="choose a policy by name"):
        Retimer(automatic()).begin([1.0, 0.5, 0.0])
