"""Videos under a map: every family that takes a timestep for each token, told through `process_timestep` alone."""

import inspect
import re

import pytest
import torch

from support.other_latents import build
from support.pixelwise_runs import relative, sampler
from support.pixelwise_videos import FAMILIES, VideoBench, flat

pytestmark = pytest.mark.host
TOLERANCE = 1e-6
HIGH, LOW = 0.8, 0.3


@pytest.fixture(scope="module", params=FAMILIES)
def bench(request, comfy):
    import comfy.model_base
    import comfy.supported_models

    if not hasattr(comfy.supported_models, FAMILIES[request.param].kind):
        pytest.skip(f"this ComfyUI has no {FAMILIES[request.param].kind}")
    if request.param == "wan-beside" and "context_latents" not in inspect.getsource(comfy.model_base.WAN21):
        pytest.skip("this ComfyUI shows Wan no latents for context")
    return VideoBench(request.param)


@pytest.fixture(scope="module")
def wan(comfy):
    return VideoBench("wan")


@pytest.fixture(scope="module")
def ltxav(comfy):
    return VideoBench("ltxav")


def noisy(noise):
    return noise


def one_sigma(bench, *values):
    """A `Step` maker: one σ for each video of the batch, also beside the map."""
    from asyncdiff.nodes.pixelwise.step import Step

    field = torch.tensor(values).reshape(-1, 1, 1, 1, 1).expand(-1, 1, *bench.size).contiguous()
    return lambda layout: Step(layout.laid(field, torch.tensor(values)), field, torch.tensor(values))


# ------------------------------------------------------------------------------------------------------- equalities


def test_a_map_that_is_constant_in_each_video_is_one_timestep_per_video(bench):
    patched = bench.attached(0.5)
    expected = bench.evaluate(patched, noisy, (HIGH, LOW))
    told = bench.evaluate(patched, noisy, (HIGH, LOW), one_sigma(bench, HIGH, LOW))
    assert relative(told, expected) <= TOLERANCE


def test_the_denoised_latent_is_that_of_the_pixels_own_sigma(bench):
    """σ_ref is another σ than the map's."""
    patched = bench.attached(0.5)
    expected = bench.evaluate(patched, noisy, HIGH)
    assert relative(bench.evaluate(patched, noisy, LOW, one_sigma(bench, HIGH)), expected) < 1e-5
    assert relative(bench.evaluate(patched, noisy, LOW), expected) > 1e-3  # control: without the map


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_strength_of_zero_is_euler(bench, cfg):
    patched = bench.attached(0.0)
    stock = flat(bench.run(bench.model, "euler", cfg=cfg))
    assert relative(flat(bench.run(patched, sampler(), cfg=cfg)), stock) < 2e-6


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_an_inactive_patch_is_bit_identical(bench, name):
    from asyncdiff.nodes.pixelwise.patch import PixelwiseModel

    patched = bench.model.clone()
    PixelwiseModel(patched, bench.drawn(0.5), "mean", "corner", None).patch_network(patched)
    assert torch.equal(flat(bench.run(patched, name)), flat(bench.run(bench.model, name)))


def test_a_scale_of_zero_is_the_hosts_euler_to_the_bit(bench):
    patched, stock = bench.attached(0.5), flat(bench.run(bench.model, "euler"))
    assert torch.equal(flat(bench.run(patched, sampler(scale=0.0))), stock)
    assert relative(flat(bench.run(patched, sampler())), stock) > 1e-3
    assert torch.equal(flat(bench.run(bench.model, "euler")), stock)
    assert list(patched.model.state_dict()) == list(bench.model.model.state_dict())


def test_a_run_is_the_same_alone_and_in_a_batch(bench):
    patched = bench.attached(0.5, frames=(1.0, 0.0, 1.0))
    together = flat(bench.run(patched, sampler()))
    bench.batch = 1
    try:
        alone = flat(bench.run(patched, sampler()))
    finally:
        bench.batch = 2
    assert relative(alone, together[:1]) < 1e-5


# ------------------------------------------------------------------------------------------------- what is told where


def told_to(bench, patched, **options):
    """What each call of the network is told: the timesteps of video and sound, by a hook on the network."""
    seen = []

    def hook(_, args, kwargs):
        told = args[1] if len(args) > 1 else kwargs["timestep"]
        seen.append(tuple(each.clone() for each in told) if isinstance(told, tuple) else (told.clone(),))

    held = bench.model.model.diffusion_model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        bench.run(patched, sampler(), **options)
    finally:
        held.remove()
    return seen


def test_every_token_is_told_the_timestep_of_its_pixels(bench):
    """Region and background by hand, frame by frame; a part that is given has its share, all else the background."""
    sampling = bench.model.get_model_object("model_sampling")
    patched = bench.attached(0.6, frames=(1.0, 0.0, 1.0))
    seen = told_to(bench, patched, steps=3, cfg=1.0)
    import comfy.samplers
    from comfy.model_base import BaseModel

    from asyncdiff.tpm.pixelwise.schedules import Pace, sigma_at, trajectory

    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 3)
    patch = getattr(bench.model.model.diffusion_model, "patch_size", (1, 1, 1))[-1]
    inside = torch.zeros(bench.size, dtype=torch.bool)
    inside[[0, 2], :, : bench.size[2] // 2] = True
    shares = (
        type(bench.model.model).process_timestep is not BaseModel.process_timestep and bench.family.mask is not None
    )
    share = bench.family.mask[0, 0, :, ::patch, ::patch].flatten() if shares else 1.0
    for step, (video, *sound) in enumerate(seen):
        slow = sigma_at(torch.tensor(trajectory(Pace(3), 0.6)), sigmas)[step]
        field = torch.where(inside, slow, sigmas[step])
        expected = sampling.timestep(field).float()[:, ::patch, ::patch].flatten() * share
        background = float(sampling.timestep(sigmas[step]))
        told, count = video.reshape(2, -1), len(expected)
        before, after = beside(bench)
        assert told.shape[1] == before + count + after
        torch.testing.assert_close(told[:, before : before + count], expected.expand(2, -1))
        rest = torch.cat([told[:, :before], told[:, before + count :], *(each.reshape(2, -1) for each in sound)], 1)
        torch.testing.assert_close(rest, torch.full_like(rest, background))
    assert len(seen) == 3
    assert not torch.equal(seen[1][0], seen[2][0])


def beside(bench):
    """Tokens before and after those of the latent: 4 × 4 of a frame of 8 × 8."""
    if "pose_video_latent" in bench.family.extra:
        return 16, 3 * 2 * 2  # a reference, three small frames of the pose
    if "reference_latents" in bench.family.extra:
        return 16, 0
    return 0, 16 + 3 * 4 * 2 if "context_latents" in bench.family.extra else 0


def test_every_pixel_of_a_frame_counts(bench):
    """LTX-2 reads one timestep for each frame where nothing says that a frame has several."""
    from asyncdiff.nodes.pixelwise.step import Step

    patched = bench.attached(0.5)
    even = torch.full((1, 1, *bench.size), HIGH)
    corner = even.clone()
    corner[..., -2:, -2:] = LOW

    def evaluated(field):
        step = lambda layout: Step(layout.laid(even, HIGH), field, torch.tensor([HIGH]))  # noqa: E731
        return bench.evaluate(patched, noisy, HIGH, step)[:, : bench.family.shapes[0][0] * even[0].numel()]

    change = (evaluated(corner) - evaluated(even)).abs().reshape(2, -1, *bench.size)
    given = 1 if bench.family.mask is not None else 0  # the first frame is given: nothing can change in it
    assert (change[:, :, given:, -2:, -2:].amax(dim=(1, 3, 4)) > 1e-4).all()
    there, elsewhere = change[:, :, given:, -2:, -2:].mean(), change[:, :, given:, :2, :2].mean()
    assert there > 2 * elsewhere


def test_ltx2_sound_keeps_the_background_s_way(ltxav):
    """With regions the sound changes only by what it sees of the video."""
    from asyncdiff.nodes.pixelwise.layout import Layout

    layout = Layout(((2, 128, 3, 4, 4), (2, 8, 6, 16)))
    field = torch.rand(1, 1, 3, 4, 4)
    row = layout.laid(field, torch.tensor([0.2, 0.4]))
    assert row.shape == (2, 1, 128 * 48 + 8 * 96)
    assert torch.equal(layout.picture(row), field.expand(2, 128, -1, -1, -1))
    assert (row[0, 0, 128 * 48 :] == 0.2).all()
    assert (row[1, 0, 128 * 48 :] == 0.4).all()
    moved = ltxav.run(ltxav.attached(0.6), sampler()).unbind()
    assert [tuple(part.shape) for part in moved] == [(2, 128, 3, 4, 4), (2, 8, 6, 16)]


# ------------------------------------------------------------------------------------------------------------- frames


def test_masks_may_be_one_for_all_frames_one_each_or_those_of_the_video(wan):
    """The video's own 9 frames are 3 of the latent: 1 + 4 + 4."""
    whole = flat(wan.run(wan.attached(0.6, frames=(1.0, 1.0, 1.0)), sampler()))
    assert torch.equal(flat(wan.run(wan.attached(0.6), sampler())), whole)
    some = flat(wan.run(wan.attached(0.6, frames=(1.0, 0.0, 1.0)), sampler()))
    nine = [1.0, *[0.0, 0.0, 1.0, 0.0], *[1.0, 1.0, 0.0, 0.0]]
    assert torch.equal(flat(wan.run(wan.attached(0.6, frames=nine), sampler())), some)
    assert relative(some, whole) > 1e-3


def test_concave_is_every_pixel_on_the_strongest_curve(wan):
    from asyncdiff.nodes.pixelwise.patch import attach
    from asyncdiff.tpm.pixelwise.requests import Drawn, Regions

    control = flat(wan.run(wan.attached(0.2, 0.6), sampler(concave=True)))
    whole = attach(wan.model, Regions((Drawn("all", 0.6, torch.ones(64, 64)),)))
    assert torch.equal(control, flat(wan.run(whole, sampler())))


def test_context_windows_over_frames_see_their_part_of_the_map(wan):
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

    def windowed(model):
        asked = {
            "context_length": 5, "context_overlap": 1, "context_schedule": "standard_static", "context_stride": 1,
            "closed_loop": False, "fuse_method": "flat", "freenoise": False,
        }  # fmt: skip
        known = inspect.signature(WanContextWindowsManualNode.execute).parameters
        node = WanContextWindowsManualNode.execute(model, **{name: asked[name] for name in asked if name in known})
        return node.args[0]

    wan.batch = 1  # core's own windows of frames take one video
    try:
        stock = flat(wan.run(windowed(wan.model), "euler"))
        assert relative(flat(wan.run(windowed(wan.attached(0.0)), sampler())), stock) < 2e-6
        assert relative(flat(wan.run(windowed(wan.attached(0.6, frames=(1.0, 0.0, 0.0))), sampler())), stock) > 1e-3
    finally:
        wan.batch = 2


# ----------------------------------------------------------------------------------------------------------- policies


@pytest.mark.parametrize("options", [{}, {"velocity_coupling": 1.0}, {"target": "velocity"}])
def test_a_policy_on_even_regions_is_the_asynchronous_run(bench, options):
    from asyncdiff.nodes.retiming import patch
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming

    retiming = Retiming(**options)
    expected = flat(bench.run(patch.attach(bench.model, Constant(0.4), retiming), "euler"))
    patched = bench.attached(0.0, policy=Constant(0.4), retiming=retiming)
    assert relative(flat(bench.run(patched, sampler())), expected) < 2e-5
    assert relative(expected, flat(bench.run(bench.model, "euler"))) > 1e-3


def test_a_policy_adds_to_regions_and_gamma_0_adds_nothing(bench):
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming

    regions = flat(bench.run(bench.attached(0.6), sampler()))
    nothing = bench.attached(0.6, policy=Constant(0.4), retiming=Retiming(gamma=0.0))
    assert torch.equal(flat(bench.run(nothing, sampler())), regions)
    assert relative(flat(bench.run(bench.attached(0.6, policy=Constant(0.4)), sampler())), regions) > 1e-3


# ----------------------------------------------------------------------------------------------------------- refusals


def refused(bench, model, reason, **options):
    from asyncdiff.tpm.errors import AsyncDiffError

    shown = []
    with pytest.raises(AsyncDiffError, match=reason):
        bench.run(model, sampler(), callback=lambda *_: shown.append(_), **options)
    assert not shown


def test_regions_of_phrases_are_refused_before_sampling(bench):
    from asyncdiff.nodes.pixelwise.patch import attach
    from asyncdiff.tpm.errors import HostError
    from asyncdiff.tpm.pixelwise.requests import Phrase, Regions

    with pytest.raises(HostError, match="Draw the regions of a video"):
        attach(bench.model, Regions((Phrase("cat", 0.5, (1, 2)),), text_length=6))


def test_masks_and_latents_that_do_not_fit_are_refused(wan):
    refused(wan, wan.attached(0.5, frames=(1.0, 1.0)), "2 frames, and the video has 3 in its latent")
    refused(wan, wan.attached(0.5, frames=[1.0] * 6), "6 frames, and the video has 3 in its latent")
    refused(wan, wan.attached(0.5, frames=(0.0, 0.0, 0.0)), "'stripe 1' is empty")
    odd = torch.zeros(2, 16, 3, 8, 7)
    refused(wan, wan.attached(0.5), "7 × 8 cannot be divided into 2 × 2", latent=odd)


def test_guides_and_masks_for_each_frame_are_refused(comfy):
    bench = VideoBench("ltxv")
    guided = [[bench.positive[0][0], {**bench.positive[0][1], "keyframe_idxs": torch.zeros(1, 3, 16)}]]
    refused(bench, bench.attached(0.5, frames=(1.0, 0.0, 1.0)), "one mask for all frames", positive=guided)


def test_an_image_model_says_that_its_pixels_are_those_of_images(comfy):
    from support.pixelwise_runs import Bench, load

    bench = Bench("sd35", load("sd35"))
    from asyncdiff.tpm.errors import HostError

    with pytest.raises(HostError, match="those of images, not of a latent of"):
        bench.run(bench.attached(0.5), sampler(), latent=torch.zeros(1, 16, 3, 8, 8))


OTHERS = {
    "QwenImageTransformer2DModel": "Qwen-Image.*whole image.*patches that do not exist.*videos of LTX-Video",
    "HunyuanVideo": "Hunyuan Video.*whole video.*patches that do not exist",
    "VaceWanModel": "Wan VACE.*whole video",
    "AceStepConditionGenerationModel": "ACE-Step 1.5 makes sound, and no pixels",
    "Hunyuan3Dv2": "Hunyuan3D 2 makes shapes",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_refused_with_the_reason(comfy, name):
    from asyncdiff.nodes.pixelwise.networks.families import pixelwise_network
    from asyncdiff.tpm.errors import HostError

    with pytest.raises(HostError, match=OTHERS[name]):
        pixelwise_network(type(name, (), {})())


def test_every_network_of_the_host_has_a_verdict(comfy):
    """A class that core adds is met by its own name, which a reader can look up; those of today by what people say."""
    import comfy.model_base

    from asyncdiff.nodes.pixelwise.networks import families
    from asyncdiff.nodes.retiming.families import REFUSED

    known = families.FAMILIES | families.IMAGES | families.VIDEOS | families.SOUNDS | families.SHAPES
    used = set()
    for name, made in inspect.getmembers(comfy.model_base, inspect.isclass):
        if name in REFUSED or not issubclass(made, comfy.model_base.BaseModel):
            continue
        path = inspect.signature(made.__init__).parameters.get("unet_model")
        source = inspect.getsource(made.__init__) if made.__init__ is not comfy.model_base.BaseModel.__init__ else ""
        found = set(re.findall(r"unet_model=comfy\.ldm\.[\w.]*\.(\w+)", source))
        found |= {path.default.__name__} if path is not None else set()
        used |= found
    assert {"QwenImageTransformer2DModel", "WanModel"} < used
    assert used <= set(known)


# --------------------------------------------------------------------------------------------- the next run, memory


def test_a_stopped_run_does_not_change_the_next(bench):
    class StopError(Exception):
        pass

    def stop(step, *_):
        if step == 1:
            raise StopError

    patched, using = bench.attached(0.6), sampler()
    expected = flat(bench.run(patched, using))
    stock = flat(bench.run(bench.model, "euler"))
    with pytest.raises(StopError):
        bench.run(patched, using, callback=stop)
    assert torch.equal(flat(bench.run(bench.model, "euler")), stock)
    assert torch.equal(flat(bench.run(patched, using)), expected)


def test_half_precision_runs(bench):
    half = build(bench.family.kind, bench.family.sizes, torch.bfloat16)
    made = flat(bench.run(bench.attached(0.5, model=half), sampler(), steps=2))
    assert relative(made, flat(bench.run(bench.attached(0.5), sampler(), steps=2))) < 0.1


# ----------------------------------------------------------------------------------------------------------- previews


def test_a_preview_shows_chosen_frames_and_gives_all_masks(ltxav):
    from asyncdiff.nodes.pixelwise.nodes_regions import PreviewRegions

    regions = ltxav.drawn(0.6, frames=(1.0, 0.0, 1.0))
    from asyncdiff.nodes.pixelwise.patch import attach

    made = ltxav.run(attach(ltxav.model, regions), sampler())
    preview, masks = PreviewRegions.execute(regions, {"samples": made}, -1).args
    assert len(preview) == 2 * 3
    assert masks.shape == (3, 4, 4)
    assert masks.mean(dim=(1, 2)).tolist() == [0.5, 0.0, 0.5]
    images = torch.rand(2 * 9, 32, 32, 3)
    one, _ = PreviewRegions.execute(regions, {"samples": made}, 0, images, frame=1).args
    assert len(one) == 2
    from asyncdiff.tpm.pixelwise.errors import RegionError

    with pytest.raises(RegionError, match="3 frames; give a frame from 0 to 2"):
        PreviewRegions.execute(regions, {"samples": made}, 0, images, frame=3)
    with pytest.raises(RegionError, match="2 videos, and 13 frames"):
        PreviewRegions.execute(regions, {"samples": made}, 0, images[:13])


def test_a_preview_of_masks_that_have_not_run_shows_where_they_fall(wan):
    from asyncdiff.nodes.pixelwise.nodes_regions import PreviewRegions

    preview, masks = PreviewRegions.execute(wan.drawn(0.6, 0.3), {"samples": wan.latent()}, -1, frame=0).args
    assert len(preview) == 2
    assert masks.shape == (2 * 3, 8, 8)
