"""Guiders and calls that are not one model and one batch: two models, windows, repeated prompts."""

from dataclasses import replace

import pytest
import torch

from support import stand_ins
from support.retiming_runs import Log, asynchronous, call

pytestmark = pytest.mark.host


def told_to(network, sample):
    """The timesteps that a network is told while `sample` runs, a list for each call."""
    told = []
    hook = network.register_forward_pre_hook(lambda _, args: told.append(args[1].flatten().tolist()))
    try:
        sample()
    finally:
        hook.remove()
    return told


# ---------------------------------------------------------------------------------------------------- two models


@pytest.fixture
def two(comfy):
    """Two models of one family, and a function that samples with both by DualModelGuider."""
    import comfy_extras.nodes_custom_sampler as custom

    if not hasattr(custom, "DualModelGuider"):
        pytest.skip("this ComfyUI has no DualModelGuider")

    def sample(model, negative):
        guider = call(custom.DualModelGuider, model, stand_ins.conditioning(), 3.0, negative, stand_ins.conditioning(1))
        sigmas = call(custom.BasicScheduler, model, "simple", 4, 1.0)
        latent = {"samples": torch.zeros(1, 16, 8, 8)}
        sampler, noise = call(custom.KSamplerSelect, "euler"), call(custom.RandomNoise, 3)
        return call(custom.SamplerCustomAdvanced, noise, guider, sampler, sigmas, latent)["samples"]

    return stand_ins.load(stand_ins.sd35()), stand_ins.load(stand_ins.sd35(seed=1)), sample


@pytest.mark.parametrize("patched", ["the first", "both"])
def test_one_run_retimes_both_models(two, patched):
    model, negative, sample = two
    first = asynchronous(model)
    second = asynchronous(negative, deviation=-0.3) if patched == "both" else negative
    networks = model.model.diffusion_model, negative.model.diffusion_model
    assert networks[0] is not networks[1]
    positive_told = told_to(networks[0], lambda: sample(first, second))
    negative_told = told_to(networks[1], lambda: sample(first, second))
    assert negative_told == positive_told
    assert positive_told != told_to(networks[0], lambda: sample(model, negative))


def test_two_models_at_gamma_zero_and_after_the_run(two):
    model, negative, sample = two
    stock = sample(model, negative)
    assert torch.equal(sample(asynchronous(model, gamma=0.0), negative), stock)
    assert not torch.equal(sample(asynchronous(model), negative), stock)
    assert torch.equal(sample(model, negative), stock)


def test_the_second_model_alone_is_refused(two):
    """Its own run never starts, so the picture would be synchronous, and nobody would know why."""
    from asyncdiff.tpm.errors import HostError

    model, negative, sample = two
    with pytest.raises(HostError, match="to the guider's first model input"):
        sample(model, asynchronous(negative))
    assert torch.equal(sample(model, asynchronous(negative, gamma=0.0)), sample(model, negative))


# ------------------------------------------------------------------------------------------------------- windows


def windowed(model, dim, length, overlap):
    import comfy.context_windows as windows

    patched = model.clone()
    patched.model_options["context_handler"] = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
        fuse_method=windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID),
        context_length=length, context_overlap=overlap, dim=dim,
    )  # fmt: skip
    windows.create_prepare_sampling_wrapper(patched)
    return patched


@pytest.mark.parametrize("batch", [6, 8])
def test_windows_over_the_batch_tell_each_image_its_own(models, run, tpm, batch):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Learned

    try:
        run(windowed(models["sd35"], 0, 4, 0), batch=batch, steps=3)
    except RuntimeError as failed:  # hosts before v0.8
        pytest.skip(f"this ComfyUI has no windows over a batch of another size than theirs: {failed}")
    log, rows = Log(), []
    patched = windowed(attach(models["sd35"], Learned(tpm), None, log), 0, 4, 0)
    hook = patched.model.diffusion_model.register_forward_pre_hook(
        lambda _, args: rows.extend(zip(args[1].tolist(), args[0], strict=True))
    )
    run(patched, batch=batch, steps=3)
    hook.remove()
    for entry in log.traces[0].t_star[1:]:
        assert len(set(entry)) == batch
        for t_star in entry:  # every row that is told this t* is one and the same image
            images = [x for told, x in rows if abs(told - 1000 * t_star) < 1e-2]
            assert len(images) >= 2, "once for each conditioning"
            assert all(torch.equal(image, images[0]) for image in images)


@pytest.mark.parametrize("reads_state", [False, True])
def test_windows_over_frames_are_told_the_videos_own(comfy, reads_state):
    """A video of 3 frames in windows of 2. (Of several videos the host itself cannot make windows over frames.)"""
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Constant
    from support.zoo import ENTRIES
    from support.zoo.build import build
    from support.zoo.parties import PerImage
    from support.zoo.runs import STEPS, sample
    from support.zoo.watch import calls_of

    entry, log = replace(ENTRIES["WAN21_T2V"], batch=1), Log()
    model = build(entry)
    policy = PerImage() if reads_state else Constant(0.4)
    with calls_of(model.model.diffusion_model) as calls:
        moved = sample(windowed(attach(model, policy, None, log), 2, 2, 1), entry)
    assert 2 in {made.args[0].shape[2] for made in calls}, "the video was cut into windows"
    assert not torch.equal(moved, sample(windowed(model, 2, 2, 1), entry))
    each = len(calls) // STEPS
    for step, decided in enumerate(log.traces[0].t_star):
        (wanted,) = decided if isinstance(decided, list) else [decided]
        told = [value for made in calls[step * each : (step + 1) * each] for value in made.timestep.tolist()]
        assert told == pytest.approx([1000 * wanted] * len(told), rel=1e-5)


def test_prompts_that_the_host_repeats(models, run, tpm):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Learned

    log = Log()
    patched = attach(models["sd35"], Learned(tpm), None, log)
    one, other = stand_ins.conditioning(0), stand_ins.conditioning(2)
    both = [
        [
            torch.cat([one[0][0], other[0][0]]),
            {"pooled_output": torch.cat([p[0][1]["pooled_output"] for p in (one, other)])},
        ]
    ]
    run(patched, batch=4, steps=4, positive=both)
    assert all(len(entry) == 4 for entry in log.traces[0].t_star[1:])


# ------------------------------------------------------------------------------------------------- several devices


@pytest.mark.parametrize("order", ["patched, then split", "split, then patched"])
@pytest.mark.parametrize("policy", ["constant", "tpm"])
def test_guidance_split_over_devices_is_told_the_same(comfy, run, tpm, monkeypatch, order, policy):
    """MultiGPU Work Units: one device a conditioning, here one and the same processor under two names."""
    multigpu = pytest.importorskip("comfy.multigpu")
    import comfy.model_management as management

    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Constant, Learned

    devices = [torch.device("cpu"), torch.device("cpu:0")]
    monkeypatch.setattr(management, "get_all_torch_devices", lambda exclude_current=False: devices, raising=False)
    monkeypatch.setattr(management, "set_torch_device", lambda device: None, raising=False)
    model = stand_ins.load(stand_ins.sd35())
    model.cached_patcher_init = (lambda: stand_ins.load(stand_ins.sd35()), ())

    def split(patcher):
        return multigpu.create_multigpu_deepclones(patcher, 2)

    def patch(patcher):
        return attach(patcher, Constant(0.4) if policy == "constant" else Learned(tpm))

    wanted = run(patch(model), batch=2, steps=4)
    both = split(patch(model)) if order.startswith("patched") else patch(split(model))
    assert len(both.get_additional_models_with_key("multigpu")) == 1
    result = run(both, batch=2, steps=4)
    assert float((result - wanted).abs().max() / wanted.abs().max()) < 1e-4
    stock = run(model, batch=2, steps=4)
    assert float((stock - wanted).abs().max() / wanted.abs().max()) > 1e-3
