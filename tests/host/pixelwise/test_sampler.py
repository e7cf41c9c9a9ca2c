"""The sampler and what it is given: regions from prompts and masks, both asynchronies, inpainting, and refusals."""

import contextlib
import logging

import pytest
import torch

from support import stand_ins
from support.pixelwise_runs import SAMPLED, attach, phrases, refused, relative, sampler

pytestmark = pytest.mark.host


# ------------------------------------------------------------------------------------------------ regions from a prompt


def test_every_family_finds_regions_in_its_attention(each):
    for static in (False, True):
        regions = phrases(("cat", 0.6, (1, 2)), ("dog", 0.3, (5,)), static=static)
        moved = each.run(attach(each.model, regions), sampler())
        assert torch.isfinite(moved).all()
        assert relative(moved, each.run(each.model, "euler")) > 1e-4
        labels = torch.stack(regions.seen.labels)
        assert labels.shape == (4, 2, *each.size)
        assert set(labels.unique().tolist()) == {0, 1, 2}
        assert torch.equal(labels[0], labels[-1]) == static


def test_the_maps_are_softmax_over_the_texts_keys_of_the_positive_prompt(benches, monkeypatch):
    """SD1.5's cross-attention at a quarter of the latent, against the same attention computed from its weights."""
    bench = benches["sd15"]
    regions = phrases(("cat", 0.6, (1, 2)))
    patched, seen = attach(bench.model, regions), []

    def spy(n, context, value, extra):
        if n.shape[1] == 16:  # 4 × 4 of 16 × 16
            attention = pixelwise.network._cross_attention(extra["block"], extra["block_index"])
            chunk = extra["cond_or_uncond"].index(0)
            query, key = attention.to_q(n.chunk(2)[chunk]), attention.to_k(context.chunk(2)[chunk])
            heads = [part.unflatten(-1, (8, -1)).transpose(1, 2) for part in (query, key)]
            weights = torch.softmax(heads[0] @ heads[1].mT * heads[0].shape[-1] ** -0.5, dim=-1)
            seen.append(weights[..., [1, 2]].mean(dim=(1, 3)))
        return n, context, value

    from asyncdiff.nodes.pixelwise.step import KEY

    pixelwise = patched.model_options["transformer_options"][KEY]
    patched.set_model_attn2_patch(spy)
    from asyncdiff.tpm.pixelwise.attention_maps import AttentionWatch

    maps, take = [], AttentionWatch.take
    monkeypatch.setattr(AttentionWatch, "take", lambda watch: maps.append(take(watch)) or maps[-1])
    bench.run(patched, sampler(), steps=1)
    assert seen
    torch.testing.assert_close(maps[0].flatten(1), torch.stack(seen).mean(dim=0), rtol=1e-4, atol=1e-6)


def test_split_and_joined_calls_see_the_same_regions(each):
    """Prompts of unequal length run as two calls; guidance's other half must not count."""
    kept = []
    for tokens in (8, 5):
        regions = phrases(("cat", 0.6, (1, 2)), ("dog", 0.3, (5,)), static=True)
        negative = each.text(1, tokens)
        each.run(attach(each.model, regions), sampler(), steps=1, negative=negative)
        kept.append(regions.seen.labels[0])
    assert torch.equal(*kept)


def test_guidance_of_one_and_combined_prompts_run(bench):
    regions = phrases(("cat", 0.6, (1, 2)))
    patched = attach(bench.model, regions)
    assert torch.isfinite(bench.run(patched, sampler(), cfg=1.0)).all()
    assert torch.isfinite(bench.run(patched, sampler(), positive=[*bench.positive, *stand_ins.conditioning(4)])).all()


def test_a_static_pass_leaves_the_noise_alone(bench):
    """Static regions are those of the ordinary run, so drawing them by hand gives the same picture."""
    from asyncdiff.tpm.pixelwise.requests import Drawn, Regions

    regions = phrases(("cat", 0.6, (1, 2)), static=True)
    found = bench.run(attach(bench.model, regions), sampler())
    drawn = Regions((Drawn("cat", 0.6, (regions.seen.labels[0] == 1).float()),))
    assert relative(bench.run(attach(bench.model, drawn), sampler()), found) < 1e-5


def test_a_phrase_that_nothing_attends_to(bench, caplog):
    regions = phrases(("cat", 0.6, (1, 2)), threshold=9.0)
    with caplog.at_level(logging.WARNING, logger="asyncdiff"):
        assert relative(bench.run(attach(bench.model, regions), sampler()), bench.run(bench.model, "euler")) < 1e-5
    assert "'cat' got no region" in caplog.text
    refused(
        bench, attach(bench.model, phrases(("cat", 0.6, (1, 2)), threshold=9.0, static=True)), "lower the threshold"
    )


def test_a_short_prompt_names_the_place(bench):
    refused(bench, attach(bench.model, phrases(("cat", 0.6, (9,)))), "position 9.*shorten")


# ------------------------------------------------------------------------------------------------------ the sampler


def test_ancestral_steps_are_the_hosts_at_a_strength_of_zero(benches):
    import comfy.samplers

    bench = benches["sd15"]
    host = bench.run(bench.model, comfy.samplers.ksampler("euler_ancestral", {"eta": 1.0}))
    assert relative(bench.run(bench.attached(0.0), sampler(eta=1.0)), host) < 1e-4
    assert torch.equal(bench.run(bench.attached(0.5), sampler(eta=1.0, scale=0.0)), host)
    assert relative(bench.run(bench.attached(0.5), sampler(eta=1.0)), host) > 1e-3


def test_inpainting_keeps_what_is_masked(each):
    latent = torch.randn(each.shape, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(1, 1, 8 * each.size[0], 8 * each.size[1])
    mask[..., : 4 * each.size[1]] = 1
    moved = each.run(each.attached(0.6, 0.3), sampler(), latent=latent, noise_mask=mask)
    stock = each.run(each.model, "euler", latent=latent, noise_mask=mask)
    kept = slice(each.size[1] // 2, None)
    torch.testing.assert_close(moved[..., kept], stock[..., kept], rtol=1e-4, atol=1e-4)
    assert relative(moved, stock) > 1e-3
    zero = each.run(each.attached(0.0), sampler(), latent=latent, noise_mask=mask)
    assert relative(zero, stock) < 1e-5


def test_previews_and_guidance_see_the_true_denoised_latent(bench):
    """post-CFG functions get D of each pixel: x − σ·v with its own σ, so D at the end is the image."""
    seen = []

    def post_cfg(args):
        seen.append((args["input"], args["denoised"], float(args["sigma"][0])))
        return args["denoised"]

    patched = bench.attached(0.6)
    patched.set_model_sampler_post_cfg_function(post_cfg)
    final = bench.run(patched, sampler())

    form = bench.model.get_model_object("latent_format")
    assert len(seen) == 4
    torch.testing.assert_close(form.process_out(seen[-1][1]), final, rtol=1e-5, atol=1e-5)


def test_skip_layer_guidance_runs_beside_it(bench):
    import comfy_extras.nodes_slg as slg

    regions = phrases(("cat", 0.6, (1, 2)))
    patched = slg.SkipLayerGuidanceDiT.execute(
        model=attach(bench.model, regions), double_layers="0", single_layers="", scale=3.0, start_percent=0.01,
        end_percent=0.9, rescaling_scale=0.0,
    ).args[0]  # fmt: skip
    assert torch.isfinite(bench.run(patched, sampler())).all()


def test_a_part_of_the_schedule(bench):
    """Split sigmas: the part is the run, from its first σ to its last."""
    import comfy.sample

    sigmas = torch.tensor([0.9, 0.7, 0.4])
    latent = torch.randn(bench.shape, generator=torch.Generator().manual_seed(1))
    runs = [
        comfy.sample.sample_custom(
            model, bench.noise, 4.0, each, sigmas, bench.positive, bench.negative, latent, disable_pbar=True, seed=3
        )
        for model, each in ((bench.model, _euler()), (bench.attached(0.0), sampler()))
    ]
    assert relative(runs[1], runs[0]) < 1e-5


def _euler():
    import comfy.samplers

    return comfy.samplers.ksampler("euler")


# ------------------------------------------------------------------------------------------------ both asynchronies


def test_a_policy_on_top_of_equal_pixels_is_the_asynchronous_sampler(bench):
    """Strength 0 and a constant D: the same run as Apply Asynchronous Timesteps under Euler."""
    from asyncdiff.nodes.retiming import patch
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming

    wanted = bench.run(patch.attach(bench.model, Constant(0.4), Retiming(gamma=0.7)), "euler")
    both = bench.attached(0.0, policy=Constant(0.4), retiming=Retiming(gamma=0.7))
    assert relative(bench.run(both, sampler()), wanted) < 1e-5
    whole = bench.attached(0.6, policy=Constant(0.4), retiming=Retiming(gamma=0.7))
    assert relative(bench.run(whole, sampler(scale=0.0)), wanted) < 1e-5
    assert relative(wanted, bench.run(bench.model, "euler")) > 1e-4
    coupled = Retiming(gamma=0.7, velocity_coupling=1.0)
    wanted = bench.run(patch.attach(bench.model, Constant(0.4), coupled), "euler")
    assert relative(bench.run(bench.attached(0.0, policy=Constant(0.4), retiming=coupled), sampler()), wanted) < 1e-5


def test_a_policy_moves_each_pixel_within_its_own_interval(bench):
    from asyncdiff.nodes.pixelwise.step import KEY
    from asyncdiff.tpm.pixelwise.policy_map import conditioning_map
    from asyncdiff.tpm.policies import Constant

    told, where = [], []
    patched = bench.attached(0.6, policy=Constant(0.4))
    network = patched.model_options["transformer_options"][KEY].network
    original = network.told
    network.told = lambda call: (told.append(call.timesteps[:2] / 1000), original(call))[1]
    bench.run(patched, sampler())
    plain = bench.attached(0.6)
    network = plain.model_options["transformer_options"][KEY].network
    original_plain = network.told
    network.told = lambda call: (where.append(call.timesteps[:2] / 1000), original_plain(call))[1]
    bench.run(plain, sampler())
    for before, here, star in zip(where, where[1:], told[1:], strict=False):
        torch.testing.assert_close(
            star.double(), conditioning_map(before, here, 0.4, t_start=1.0), atol=1e-5, rtol=1e-5
        )
    assert torch.equal(told[0], where[0])


@pytest.mark.parametrize("options", [{"velocity_coupling": 1.0}, {"target": "velocity"}])
def test_what_is_kept_stays_where_a_policy_scales_the_velocity(bench, options):
    """Inpainting: the velocity is that of what is painted; the twin is the asynchronous run without regions."""
    from asyncdiff.nodes.retiming import patch
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming

    latent = torch.randn(bench.shape, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, *bench.size)
    mask[..., 4:] = 1
    retiming = Retiming(**options)
    patched = bench.attached(0.0, policy=Constant(0.4), retiming=retiming)
    made = bench.run(patched, sampler(), latent=latent, noise_mask=mask)
    assert relative(made[..., :4], latent[..., :4]) < 1e-5
    expected = bench.run(patch.attach(bench.model, Constant(0.4), retiming), "euler", latent=latent, noise_mask=mask)
    assert relative(made, expected) < 2e-5


def test_stacking_the_two_patches_is_refused_in_both_orders(bench):
    from asyncdiff.nodes.retiming import patch
    from asyncdiff.tpm.errors import HostError
    from asyncdiff.tpm.policies import Constant

    with pytest.raises(HostError, match="connect the policy to Apply Pixel-wise"):
        bench.attached(0.5, model=patch.attach(bench.model, Constant(0.4)))
    with pytest.raises(HostError, match="connect the policy to Apply Pixel-wise"):
        patch.attach(bench.attached(0.5), Constant(0.4))


def test_a_policy_is_for_flow_models_of_its_family(benches):
    from asyncdiff.tpm.errors import HostError, PolicyError
    from asyncdiff.tpm.policies import Constant, find_policy

    with pytest.raises(HostError, match="flow-matching"):
        benches["sd15"].attached(0.5, policy=Constant(0.4))
    with pytest.raises(PolicyError, match="made for Flux"):
        benches["sd35-two"].attached(0.5, policy=find_policy("flux-coco"))


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["dpmpp_2m", "lms", "euler", "heun"])
def test_a_sampler_with_one_sigma_is_refused_by_name(bench, name):
    refused(bench, bench.attached(0.5), f"{name}.*Pixel-wise Asynchronous Sampler", name)


def test_a_model_without_regions_is_refused(bench):
    refused(bench, bench.model, "Apply Pixel-wise Asynchronous Denoising")


def test_an_area_is_refused(bench):
    text = [[bench.positive[0][0], {**bench.positive[0][1], "area": (4, 4, 0, 0), "strength": 1.0}]]
    refused(bench, bench.attached(0.5), "cropped to an area", positive=text)


def test_a_masked_conditioning_runs(bench):
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    extra = {"mask": mask, "mask_strength": 1.0, "set_area_to_bounds": False}
    text = [[bench.positive[0][0], {**bench.positive[0][1], **extra}], *stand_ins.conditioning(4)]
    assert torch.isfinite(bench.run(bench.attached(0.5), sampler(), positive=text)).all()


def test_odd_sizes_are_refused(bench, benches):
    refused(bench, bench.attached(0.5), "9 × 8 cannot be divided into 2 × 2", latent=torch.zeros(1, 16, 8, 9))
    refused(benches["sd15"], benches["sd15"].attached(0.5), "10 × 16 .* 4 × 4", latent=torch.zeros(1, 4, 16, 10))


def test_masks_of_another_shape_number_or_place_are_refused(bench):
    from asyncdiff.tpm.pixelwise.requests import Drawn, Regions

    def drawn(*masks, strength=0.5):
        items = tuple(Drawn(f"mask {number}", strength, mask) for number, mask in enumerate(masks))
        return attach(bench.model, Regions(items))

    whole = torch.ones(64, 64)
    refused(bench, drawn(torch.ones(64, 128)), "'mask 0' is 128 × 64, which is not the shape")
    refused(bench, drawn(torch.zeros(64, 64)), "'mask 0' is empty")
    refused(bench, drawn(torch.ones(3, 64, 64)), "3 images, the latent has 2")
    refused(bench, drawn(whole, whole), "'mask 1' is covered")


def test_flow_models_are_deterministic(bench):
    refused(bench, bench.attached(0.5), "set η to 0", sampler(eta=1.0))


def test_reference_images_are_refused(benches):
    if "flux" not in benches:
        pytest.skip("no small Flux here")
    bench = benches["flux"]
    text = [[bench.positive[0][0], {**bench.positive[0][1], "reference_latents": [torch.zeros(1, 16, 8, 8)]}]]
    refused(bench, bench.attached(0.5), "Reference images", positive=text)


def test_other_networks_and_parametrizations_are_refused(bench, benches):
    import comfy_extras.nodes_model_advanced as advanced

    from asyncdiff.nodes.pixelwise.networks.families import pixelwise_network
    from asyncdiff.tpm.errors import HostError

    with pytest.raises(HostError, match="Linear has no pixel-wise timesteps"):
        pixelwise_network(torch.nn.Linear(1, 1))
    lcm = advanced.ModelSamplingDiscrete().patch(benches["sd15"].model, "lcm", False)[0]
    with pytest.raises(HostError, match="another kind"):
        benches["sd15"].attached(0.5, model=lcm)
    with pytest.raises(HostError, match="regions already"):
        bench.attached(0.5, model=bench.attached(0.5))


def test_a_copy_of_the_model_is_refused(bench):
    """Hooks and several devices make ComfyUI run another instance than the one that was patched."""
    from asyncdiff.nodes.pixelwise.step import KEY
    from asyncdiff.tpm.errors import HostError

    patched = bench.attached(0.5)
    with pytest.raises(HostError, match="a copy of this model"):
        patched.model_options["transformer_options"][KEY]._check_network(torch.nn.Linear(1, 1))


def test_progress_counts_the_static_pass(bench):
    seen = []
    regions = phrases(("cat", 0.6, (1, 2)), static=True)
    bench.run(attach(bench.model, regions), sampler(), callback=lambda step, *rest: seen.append((step, rest[-1])))
    assert seen == [(step, 8) for step in range(8)]


def test_a_compiled_model_makes_the_same_image(bench):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    patched = bench.attached(0.5)
    compiled = patched.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    assert relative(bench.run(compiled, sampler(), steps=2), bench.run(patched, sampler(), steps=2)) < 1e-4


@pytest.mark.parametrize("family", SAMPLED)
def test_half_precision_runs(benches, family):
    import comfy.sd

    if family not in benches:
        pytest.skip(f"this ComfyUI loads no small model of the family {family}")
    weights = stand_ins.sd35(depth=2) if family == "sd35-two" else getattr(stand_ins, family)()
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.bfloat16})
    bench = benches[family]
    half = bench.run(bench.attached(0.5, model=model), sampler(), steps=2)
    assert relative(half, bench.run(bench.attached(0.5), sampler(), steps=2)) < 0.1
    assert torch.isfinite(bench.run(attach(model, phrases(("cat", 0.6, (1, 2)))), sampler(), steps=2)).all()


# ------------------------------------------------------------------------------- a run leaves nothing to the next one


class StopError(Exception):
    """Ends a run in the middle."""


def stops_at(evaluation):
    def callback(step, *_):
        if step == evaluation:
            raise StopError

    return callback


@contextlib.contextmanager
def ended_by(end, bench):
    """Ends a run in its third evaluation; gives the options that the run needs for it."""
    import comfy.model_management

    calls = []

    def third(*_):
        calls.append(None)
        if len(calls) == 3:
            raise StopError

    def pressed(step, *_):
        if step == 2:
            comfy.model_management.interrupt_current_processing()

    hook = bench.model.model.diffusion_model.register_forward_hook(third) if end == "network" else None
    reason = comfy.model_management.InterruptProcessingException if end == "host" else StopError
    try:
        with pytest.raises(reason):
            yield {"callback": stops_at(2), "host": pressed, "network": None}[end]
    finally:
        if hook is not None:
            hook.remove()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("end", ["callback", "network", "host"])
def test_a_stopped_run_does_not_change_the_next(each, end, static):
    """Ended by a callback, at the end of the network itself, or by the host's stop button."""
    fresh = phrases(("cat", 0.6, (1, 2)), ("dog", 0.3, (5,)), static=static)
    expected = each.run(attach(each.model, fresh), sampler())
    regions = phrases(("cat", 0.6, (1, 2)), ("dog", 0.3, (5,)), static=static)
    patched, using = attach(each.model, regions), sampler()
    with ended_by(end, each) as callback:
        each.run(patched, using, callback=callback, positive=each.text(4), steps=6)
    assert regions.seen.labels == []
    assert torch.equal(each.run(patched, using), expected)
    assert [a.tolist() for a in regions.seen.labels] == [a.tolist() for a in fresh.seen.labels]


def test_a_stopped_policy_run_does_not_change_the_next(bench):
    from asyncdiff.tpm.policies import Constant

    patched = attach(bench.model, phrases(("cat", 0.6, (1, 2))), policy=Constant(0.4))
    expected = bench.run(patched, sampler())
    with pytest.raises(StopError):
        bench.run(patched, sampler(), callback=stops_at(2))
    assert torch.equal(bench.run(patched, sampler()), expected)
