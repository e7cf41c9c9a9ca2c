"""Calibrate Policy in process: what the command finds, how it stops and goes on, other models, and what it refuses."""

import pytest
import torch

from support import other_latents, stand_ins
from support.training_parts import conditionings, document, executed

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("comfy")]

CAPTIONS = 6
EMBEDDED = {"name": "mine", "steps": 4, "teacher_steps": 16, "count": CAPTIONS, "cfg": 3.0, "render_batch": 6}
COMMAND = "calibrate --steps 4 --teacher-steps 16 --batch 6 --no-progress --cfg 3 --size 128"


@pytest.fixture
def at(tmp_path, monkeypatch):
    """An empty folder as the only one of models/tpm."""
    import folder_paths

    from asyncdiff.nodes.retiming import nodes_policies  # noqa: F401 - adds the folder that is replaced here

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "tpm", ([str(tmp_path)], set()))
    return tmp_path


@pytest.fixture(scope="module")
def pipeline(comfy):
    from asyncdiff.nodes.nodes_embedded import LoadEmbeddedPipeline

    with torch.inference_mode():
        return LoadEmbeddedPipeline.execute().result


@pytest.fixture(scope="module")
def captions(comfy):
    from asyncdiff.tpm.embedded.worlds import training_captions

    return training_captions(CAPTIONS)


@pytest.fixture
def calibrate(pipeline, captions, monkeypatch):
    """The node's outputs on the embedded pipeline, with these settings in place of the small ones."""

    def go(**settings):
        from asyncdiff.nodes.training.nodes_calibrate import CalibratePolicy

        defaults = {entry.id: getattr(entry, "default", None) for entry in CalibratePolicy.GET_SCHEMA().inputs}
        model, clip, _ = pipeline
        own = {"model": model, "clip": clip, "latent_image": {"samples": torch.zeros(1, 16, 16, 16)}}
        own |= {"prompts": "\n".join(captions), "sampler_name": "euler", "scheduler": "simple", "conditionings": {}}
        return executed(CalibratePolicy, defaults | own | EMBEDDED | settings, monkeypatch)

    return go


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_it_finds_what_the_command_finds(calibrate, at, captions, sampler):
    pytest.importorskip("diffusers")
    from asyncdiff.tpm.cli import main

    (at / "captions.txt").write_text("\n".join(captions), encoding="utf-8")
    command = [*COMMAND.split(), "--count", str(CAPTIONS), "--solver", sampler, "--prompts", str(at / "captions.txt")]
    assert main([*command, "--out", str(at / "by command")]) == 0
    policy, _, _ = calibrate(sampler_name=sampler)
    expected, found = (document(at / name) for name in ("by command/calibration.json", REPORT))
    for name in ("a", "last"):
        assert found[name] == pytest.approx(expected[name], abs=2e-3)
    assert found["distance"] == pytest.approx(expected["distance"], rel=1e-2)
    assert found["cost"]["evaluations"] == expected["cost"]["evaluations"]
    theirs = document(at / "by command" / "calibrated.json")["knots"]
    for knot, other in zip(policy.knots, theirs, strict=True):
        assert knot == pytest.approx(other, abs=2e-3)


REPORT = "training/mine/calibrate/calibration.json"


@pytest.fixture
def shown(monkeypatch):
    """What the progress bar was given."""
    from comfy import utils

    calls = []
    monkeypatch.setattr(utils, "PROGRESS_BAR_HOOK", lambda *args, **_: calls.append(args))
    return calls


def test_it_leaves_a_policy_that_load_tpm_lists_and_says_what_it_cost(calibrate, at, shown):
    from asyncdiff.nodes.retiming import nodes_policies

    policy, chart, text = calibrate()
    assert "mine.json" in nodes_policies.policy_files()
    loaded = nodes_policies.load("mine.json")
    assert (loaded.name, loaded.knots, loaded.backbone) == ("mine", policy.knots, "sd3")
    assert chart.shape[0] == 1
    assert chart.std() > 0.05
    assert "96 of them the teacher's" in text
    assert "models/tpm/mine.json" in text
    assert "start alike" in text
    done = [args[0] for args in shown]
    assert done[:-1] == sorted(done[:-1])
    assert done[-2] == shown[0][1]
    kind, last, _ = shown[-1][2]  # the finished chart: the classic front end keeps the last one
    assert kind == "JPEG"
    assert (last.height, last.width) == chart.shape[1:3]


def test_stopped_and_queued_again_it_finds_the_same_and_the_host_is_clean(calibrate, at, monkeypatch):
    from comfy import model_management as management

    from asyncdiff.nodes.training.sampler import HostSampler

    calibrate(name="whole")
    original, calls = HostSampler._after_step, []

    def stopped(*args):
        calls.append(1)
        if len(calls) == 16 + 4 + 6:  # in the third run: the teacher and the plain run are kept
            management.interrupt_current_processing(value=True)
        original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(HostSampler, "_after_step", stopped)
        with pytest.raises(management.InterruptProcessingException):
            calibrate()
    assert not management.processing_interrupted()
    assert (at / "training" / "mine" / "calibrate" / "state.pt").is_file()
    assert not (at / "mine.json").exists()
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(HostSampler, "_after_step", lambda *args: (calls.append(1), original(*args)))
        calibrate()
    assert document(at / "mine.json")["knots"] == document(at / "whole.json")["knots"]
    assert len(calls) % 4 == 0
    with pytest.raises(Exception, match="seed was 42"):
        calibrate(seed=1)
    calibrate(seed=1, resume=False)


def test_the_policy_of_another_node_is_not_overwritten(calibrate, at):
    (at / "mine.json").write_text("{}", encoding="utf-8")
    with pytest.raises(Exception, match="choose another name"):
        calibrate()
    assert (at / "mine.json").read_text(encoding="utf-8") == "{}"


# --- conditionings and other models -----------------------------------------------------------------------------------


def given_to(model, latent, texts, **settings):
    """The inputs of a small calibration of a model with random weights, whose spectrum need not come near."""
    from asyncdiff.nodes.training.nodes_calibrate import CalibratePolicy

    defaults = {entry.id: getattr(entry, "default", None) for entry in CalibratePolicy.GET_SCHEMA().inputs}
    own = {"model": model, "latent_image": {"samples": latent}, "name": "mine", "steps": 3, "teacher_steps": 6}
    own |= {"conditionings": {f"conditioning{n}": text for n, text in enumerate(texts)}, "cfg": 1.0, "count": 4}
    return defaults | own | {"sampler_name": "euler", "scheduler": "simple"} | settings


def opened(given):
    from asyncdiff.nodes.training import nodes_calibrate

    return nodes_calibrate.open_calibration(given)


def test_a_batch_of_prompts_is_as_many_conditionings(at):
    batch = [[torch.cat([entry[0][0] for entry in conditionings()]), {
        "pooled_output": torch.cat([entry[0][1]["pooled_output"] for entry in conditionings()])}]]  # fmt: skip
    latents = []
    for texts in (conditionings(), [batch]):
        sampler, prompts, plan = opened(given_to(stand_ins.load(stand_ins.sd35()), torch.zeros(1, 16, 16, 16), texts))
        assert (len(prompts), plan.prompts) == (4, 4)
        latents.append(sampler.latents(prompts, [1, 2, 3, 4], steps=3))
    assert torch.equal(*latents)
    assert latents[0].shape == (4, 16, 16, 16)


@pytest.mark.parametrize(
    ("name", "shape"), [("wan", (16, 3, 16, 16)), ("ltxav", (128, 3, 16, 16)), ("hunyuan-image", (64, 16, 16))]
)
@pytest.mark.parametrize("sampler", ["euler", "res_multistep", "heun"])
def test_every_kind_of_latent_and_sampler_is_measured(at, name, shape, sampler):
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.training.calibrate.spectrum import band_spectrum

    latent = torch.zeros(1, *shape)
    if name == "ltxav":
        latent = other_latents.nested([latent, torch.zeros(1, 8, 6, 16)])
    texts = [other_latents.conditioning(name, seed) for seed in range(4)]
    given = given_to(other_latents.model(name), latent, texts, sampler_name=sampler)
    sampler, prompts, _ = opened(given)
    plain, moved = (sampler.latents(prompts, [1, 2, 3, 4], policy, steps=3) for policy in (None, Constant(0.4)))
    assert plain.shape == (4, *shape)
    assert not torch.equal(plain, moved)
    assert band_spectrum(plain).isfinite().all()


def test_evaluations_are_counted_as_the_hosts_samplers_make_them(comfy):
    from comfy import sample, samplers

    from asyncdiff.tpm.retiming.solvers import OWN_STEPS, evaluations

    model, calls = stand_ins.load(stand_ins.sd35()).clone(), []
    model.set_model_unet_function_wrapper(
        lambda apply, args: (calls.append(1), apply(args["input"], args["timestep"], **args["c"]))[1]
    )
    text, latent = stand_ins.conditioning(0), torch.zeros(1, 16, 8, 8)
    for name in sorted(set(samplers.KSampler.SAMPLERS) - OWN_STEPS):
        for steps in (4, 7):
            calls.clear()
            with torch.inference_mode():
                noise = torch.randn(latent.shape)
                sample.sample(model, noise, steps, 1.0, name, "simple", text, text, latent, disable_pbar=True, seed=0)
            assert len(calls) == evaluations(name, steps), name


# --- what is refused, before anything is sampled ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"steps": 2}, "steps must be a whole number of at least 3"),
        ({"teacher_steps": 6}, "too few for a run of 4"),
        ({"prompts": "a red circle\na blue star"}, "at least 4 prompts"),
        ({"prompts": "a red circle\na lighthouse"}, "lighthouse"),
        ({"prompts": ""}, "There are no prompts"),
        ({"clip": None}, "Connect a CLIP"),
        ({"latent_image": {"samples": torch.zeros(1, 16, 8, 8)}}, "too small"),
        ({"sampler_name": "dpm_adaptive"}, "chooses its own steps"),
        ({"name": "../away"}, "cannot be a file's name"),
    ],
)
def test_what_cannot_be_judged_is_a_sentence_before_anything_is_sampled(calibrate, at, monkeypatch, settings, reason):
    from comfy import sample

    monkeypatch.setattr(sample, "sample", lambda *_, **__: pytest.fail("it sampled"))
    with pytest.raises(Exception, match=reason):
        calibrate(**settings)
    assert not list(at.iterdir())


def test_sound_is_refused(at):
    texts = [other_latents.conditioning("ace", seed) for seed in range(4)]
    with pytest.raises(Exception, match="spectrum of pictures, and ACEStep15 makes none"):
        opened(given_to(other_latents.model("ace"), other_latents.latent("ace"), texts))


def test_nan_is_refused_after_the_first_step(calibrate, at, pipeline):
    model = pipeline[0].clone()
    calls = []
    model.set_model_sampler_post_cfg_function(
        lambda args: (calls.append(1), args["denoised"] * float("nan"))[1]
    )  # what an overflowing fp16 model gives
    with pytest.raises(Exception, match="not finite"):
        calibrate(model=model)
    assert len(calls) == 1


def test_where_nothing_comes_nearer_no_policy_is_left(calibrate, at, monkeypatch):
    from asyncdiff.tpm.training.calibrate import calibrate as module

    monkeypatch.setattr(module.Calibration, "_distance", lambda *_: 99.0)
    with pytest.raises(Exception, match="nothing to calibrate"):
        calibrate()
    assert not (at / "mine.json").exists()
