"""A policy that does not fit the model is told before a run, by name, with the names of those that fit."""

import json

import pytest

from support import stand_ins

pytestmark = pytest.mark.host
SAMPLER = {"gamma": 1, "steps": 6, "denoise": 1, "scheduler": "simple", "sampler_name": "euler"}
EMBEDDED = {"type": "AsyncDiffLoadEmbeddedPipeline", "widgets": {}}


@pytest.fixture(scope="module")
def plan(comfy):
    from asyncdiff.nodes.retiming.live_plan import plan

    return plan


@pytest.fixture
def loader(comfy, tmp_path, monkeypatch):
    """A stock loader of a small file in a family's official layout."""
    import folder_paths

    def written(family, folder="diffusion_models"):
        (stand_ins.write_sd35 if family == "sd35" else stand_ins.write_flux)(tmp_path / f"{family}.safetensors")
        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, ([str(tmp_path)], {".safetensors"}))
        return {"type": "AnyLoader", "widgets": {"some_name": f"{family}.safetensors", "dtype": "default"}}

    return written


def loaded(name):
    return {"type": "AsyncDiffLoadTPM", "widgets": {"name": name, "readout": "mode"}}


def asked(policy=None, model=None, **sampler):
    document = {"sampler": SAMPLER | sampler, "policy": policy, "model": model}
    return json.dumps({key: value for key, value in document.items() if value is not None})


def reason(plan, *question, **sampler):
    from asyncdiff.tpm.errors import AsyncDiffError

    with pytest.raises(AsyncDiffError) as told:
        plan(asked(*question, **sampler))
    return str(told.value)


def test_a_preset_of_another_family_is_told_with_those_that_fit(plan):
    told = reason(plan, loaded("shipped: flux-coco"), EMBEDDED)
    assert '"Flux · constant 0.50 · the paper\'s mean on COCO" was made for Flux' in told
    assert "the model is the embedded pipeline. These fit: embedded pipeline · constant 0.40" in told
    assert plan(asked(loaded("tiny-sd35"), EMBEDDED))["notes"] == []
    assert "sigmas" in plan(asked(loaded("shipped: flux-coco")))  # a model that is not known is not judged


@pytest.mark.parametrize("folder", ["diffusion_models", "checkpoints"])
def test_the_family_is_read_from_the_file_of_any_loader(plan, loader, folder):
    sd35 = loader("sd35", folder)
    told = reason(plan, loaded("flux-coco-lifted"), sd35)
    assert "was made for Flux, the model is SD3 or SD3.5. These fit: SD3.5 · constant 0.19" in told
    assert "embedded" not in told
    assert "sigmas" in plan(asked(loaded("sd35-coco"), sd35))
    flux = loader("flux", folder)
    told = reason(plan, loaded("sd35-coco"), flux)
    assert "was made for SD3 or SD3.5, the model is Flux. These fit: Flux · constant 0.50" in told


def test_a_tpm_of_another_model_of_the_family_is_told(plan, monkeypatch, loader):
    from asyncdiff.nodes.retiming import live_plan
    from asyncdiff.nodes.retiming.fit import Seen

    assert "while the image forms" in reason(plan, loaded("tiny-sd35-tpm"), EMBEDDED)
    monkeypatch.setattr(live_plan, "seen_before", lambda *_: Seen("sd3", width=4096, guessed=True))
    told = reason(plan, loaded("tiny-sd35-tpm"), EMBEDDED)
    assert "trained on another model: it reads prompts of width 128, this model's have 4096. These fit: SD3.5" in told


def test_the_width_of_full_size_prompts_is_read_from_shapes(comfy):
    from asyncdiff.nodes.retiming.model_files import _width

    assert _width({"context_in_dim": 4096}) == 4096
    assert _width({"context_embedder_config": {"params": {"in_features": 2048}}}) == 2048
    assert _width({}) is None


@pytest.mark.parametrize("policy", [None, "automatic (by model)"])
def test_the_presets_curve_is_foreseen_where_the_model_is_known(plan, loader, policy):
    answer = plan(asked(policy and loaded(policy), loader("sd35")))
    assert answer["deviation"][1][0] == pytest.approx(0.192)
    assert "the model's preset decides, SD3.5 · constant 0.19" in answer["notes"][0]
    assert "while the image forms" in reason(plan, policy and loaded(policy), EMBEDDED)
    assert "The curve appears during the run" in reason(plan, policy and loaded(policy))


def test_another_solver_is_told_beside_the_curve(plan, tmp_path, monkeypatch):
    import folder_paths

    from asyncdiff.tpm.policies import Constant, save_policy

    answer = plan(asked(loaded("tiny-sd35-curve"), EMBEDDED, sampler_name="dpmpp_2m"))
    named = '"embedded pipeline · curve · searched (for tail_sync 1)" was made for the sampler euler: with'
    shipped = "embedded pipeline · curve · searched for dpmpp_2m"
    assert answer["notes"] == [f"{named} dpmpp_2m it may do too much. Made for dpmpp_2m: {shipped}."]
    save_policy(tmp_path / "mine.json", Constant(0.3, about={"solver": "dpmpp_2m"}))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "tpm", ([str(tmp_path)], {".json"}))
    answer = plan(asked(loaded("tiny-sd35-curve"), EMBEDDED, sampler_name="dpmpp_2m"))
    assert answer["notes"] == [f"{named} dpmpp_2m it may do too much. Made for dpmpp_2m: {shipped}; mine.json."]
    assert "was made for the sampler euler" in reason(plan, loaded("tiny-sd35-tpm"), EMBEDDED, sampler_name="heun")
    typed = {"type": "AsyncDiffConstantDeviation", "widgets": {"deviation": 0.3}}
    assert plan(asked(typed, EMBEDDED, sampler_name="heun"))["notes"] == []


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, (2**40).to_bytes(8, "little"), b"\x02" + b"\0" * 7 + b"[]"])
def test_a_model_file_that_cannot_be_read_is_not_judged(plan, loader, tmp_path, content):
    known = loader("sd35")
    (tmp_path / "sd35.safetensors").write_bytes(content)
    assert "sigmas" in plan(asked(loaded("flux-coco"), known))


@pytest.mark.parametrize("name", ["../x.safetensors", "", "a\0.safetensors", "x" * 5000 + ".safetensors", ["a"], 3])
def test_a_loaders_widgets_may_hold_anything(plan, name):
    assert "sigmas" in plan(asked(loaded("flux-coco"), {"type": "AnyLoader", "widgets": {"name": name}}))


def test_the_run_itself_says_the_same(models, run):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.errors import PolicyError
    from asyncdiff.tpm.policies import Curve, find_policy
    from support.retiming_runs import Log

    with pytest.raises(PolicyError, match="These fit: SD3"):
        attach(models["sd35"], find_policy("flux-coco"))
    searched = Curve([(0, 0.2), (1, 0.2)], name="mine", about={"solver": "dpmpp_2m"})
    log = Log()
    run(attach(models["sd35"], searched, None, log), sampler="heun")
    run(attach(models["sd35"], searched, None, log), sampler="dpmpp_2m")
    assert ["made for the solver dpmpp_2m, this run uses heun" in " ".join(trace.notes) for trace in log.traces] == [
        True,
        False,
    ]


def test_the_hosts_own_names_of_families_are_compared_only_where_they_are_certain(comfy):
    from asyncdiff.nodes.retiming.fit import Made, Seen

    wan = Made("WAN21", embedded=False, solver=None)
    assert wan.fits(Seen("WAN21_T2V", guessed=True))
    assert not wan.fits(Seen("WAN22"))
    assert not wan.fits(Seen("sd3", guessed=True))
