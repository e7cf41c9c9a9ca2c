"""Whole diffusers runs: regions from the prompt, SD2's UNet with DDIM, and a policy on top."""

import pytest
import torch

pytest.importorskip("diffusers")

from asyncdiff.tpm.errors import HostError, PolicyError
from asyncdiff.tpm.hosts.diffusers import asynchronous
from asyncdiff.tpm.hosts.diffusers.attention import captured
from asyncdiff.tpm.hosts.diffusers.pixelwise import Pixelwise, pixelwise
from asyncdiff.tpm.hosts.diffusers.regions import Phrases
from asyncdiff.tpm.pixelwise.errors import RegionError, ScheduleError
from asyncdiff.tpm.pixelwise.regions import from_attention
from asyncdiff.tpm.policies import Constant
from asyncdiff.tpm.retiming.settings import Retiming
from support.paths import EMBEDDED

SIDE = 16  # of the latents
TOKENS = [(1, 2), (4,)]
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


def make_sd2(prediction="epsilon", scheduler="DDIMScheduler", **changes):
    """StableDiffusionPipeline without a text encoder; SD2.1's scheduler settings."""
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIDE, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(16, 16, 16), cross_attention_dim=12, attention_head_dim=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    ).eval().requires_grad_(False)  # fmt: skip
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    vae = diffusers.AutoencoderTiny(
        latent_channels=4, encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4,
    )  # fmt: skip
    settings = {**SCHEDULE, "prediction_type": prediction, "steps_offset": 1, "set_alpha_to_one": False}
    kind = getattr(diffusers, scheduler)
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae, unet=unet, scheduler=kind.from_config(settings), text_encoder=None, tokenizer=None,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.register_to_config(**changes)
    return pipe


def sample(pipe, batch=1, **call):
    """Latents (batch, 4, 16, 16) from random prompts."""
    draw = torch.Generator().manual_seed(5)
    context, pooled = torch.randn(batch, 6, 12, generator=draw), torch.randn(batch, 8, generator=draw)
    settings = {
        "prompt_embeds": context,
        "negative_prompt_embeds": -context,
        "guidance_scale": 3.0,
        "num_inference_steps": 4,
        "height": SIDE * pipe.vae_scale_factor,
        "width": SIDE * pipe.vae_scale_factor,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(1),
    }
    if hasattr(pipe, "transformer"):
        settings |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": -pooled}
    return pipe(**{**settings, **call}).images


def half(side=SIDE):
    mask = torch.zeros(side, side)
    mask[:, : side // 2] = 1
    return mask


def same(got, expected, tolerance=2e-5):
    return (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture(scope="module")
def sd3(make_pipe):
    return make_pipe("sd3")


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def sd2(request):
    return make_sd2(request.param)


# --- SD2's UNet ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_background_is_diffusers_ddim(sd2, eta):
    """k = 0 everywhere: T and τ of the paper give the scheduler's own timesteps, and "paper" its own last step."""
    expected = sample(sd2, 2, eta=eta)
    with pixelwise(sd2, [half()], [0.0], Pixelwise(final="paper")):
        assert same(sample(sd2, 2, eta=eta), expected)
    with pixelwise(sd2, [half()], [0.0]):
        clean = sample(sd2, 2, eta=eta)
    assert not torch.equal(clean, expected)
    sd2.scheduler.register_to_config(set_alpha_to_one=True)
    sd2.scheduler.final_alpha_cumprod = torch.tensor(1.0)
    assert same(sample(sd2, 2, eta=eta), clean)
    sd2.scheduler.register_to_config(set_alpha_to_one=False)
    sd2.scheduler.final_alpha_cumprod = sd2.scheduler.alphas_cumprod[0]


def test_one_region_for_all_is_ddim_on_its_timesteps(sd2):
    """Uniform k = .5 at S = 4, by the closed form, through the scheduler's own arithmetic."""
    with pixelwise(sd2, [torch.ones(8, 8)], [0.5], Pixelwise(final="paper")):
        got = sample(sd2)
    scheduler, real = sd2.scheduler, sd2.scheduler.step
    timesteps = [845, 626, 345, 1, 0]  # round(751 + 93.75), then re-aimed with r = 3, 2, 1, 0
    places = iter(range(4))

    def set_timesteps(*_, **__):
        scheduler.num_inference_steps, scheduler.timesteps = 4, torch.tensor(timesteps[:4])

    def step(output, timestep, x, **_):
        i = next(places)
        a, b = scheduler.alphas_cumprod[timesteps[i]], scheduler.alphas_cumprod[timesteps[i + 1]]
        if scheduler.config.prediction_type == "epsilon":
            x0, eps = (x - (1 - a).sqrt() * output) / a.sqrt(), output
        else:
            x0, eps = a.sqrt() * x - (1 - a).sqrt() * output, a.sqrt() * output + (1 - a).sqrt() * x
        return (b.sqrt() * x0 + (1 - b).sqrt() * eps,)

    kept = scheduler.set_timesteps
    scheduler.set_timesteps, scheduler.step = set_timesteps, step
    try:
        expected = sample(sd2)
    finally:
        scheduler.set_timesteps = kept
        del scheduler.step
    assert scheduler.step == real
    assert same(got, expected)


def test_unet_regions_matter_repeat_and_leave_nothing(sd2):
    expected = sample(sd2, eta=1.0)
    with pixelwise(sd2, [half()], [0.7]):
        first = sample(sd2, eta=1.0)
        assert torch.equal(sample(sd2, eta=1.0), first)
        assert not torch.equal(sample(sd2, eta=0.0), first)
    with pixelwise(sd2, [half()], [0.7], Pixelwise(concave=True)):
        assert not torch.equal(sample(sd2, eta=1.0), first)
    assert not same(first, expected, 1e-2)
    assert torch.equal(sample(sd2, eta=1.0), expected)
    assert "step" not in vars(sd2.scheduler)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in sd2.unet.modules())


def test_unet_attention_is_read_at_a_quarter_of_the_latent(sd2):
    with captured(sd2, TOKENS) as capture:
        expected = sample(sd2, 2)
    assert torch.equal(sample(sd2, 2), expected)
    assert capture.maps.shape == (2, 2, SIDE // 4, SIDE // 4)
    with pixelwise(sd2, Phrases(TOKENS), [0.5, 0.3]) as run:
        assert not torch.equal(sample(sd2, 2), expected)
        assert run.masks.shape == (2, 2, SIDE, SIDE)


def test_what_a_unet_pipeline_cannot_do_is_a_sentence():
    cases = [
        ({"scheduler": "PNDMScheduler"}, "DDIMScheduler.from_config"),
        ({"scheduler": "DPMSolverMultistepScheduler"}, "first-order"),
        ({"prediction": "sample"}, "'sample' is not supported"),
        ({"clip_sample": True}, "clip_sample"),
    ]
    for changes, words in cases:
        with pytest.raises(HostError, match=words), pixelwise(make_sd2(**changes), [half()], [0.5]):
            pass
    pipe = make_sd2()
    with pytest.raises(HostError, match="flow model"), pixelwise(pipe, [half()], [0.5], policy=Constant(0.2)):
        pass
    with pytest.raises(ScheduleError, match="clean or paper"), pixelwise(pipe, [half()], [0.5], Pixelwise(final="x")):
        pass
    side = 18 * pipe.vae_scale_factor
    with pytest.raises(RegionError, match="multiples of 4"), pixelwise(pipe, [torch.ones(18, 18)], [0.5]):
        sample(pipe, height=side, width=side)
    assert "step" not in vars(pipe.scheduler)


# --- regions from the prompt --------------------------------------------------------------------------------------


def test_dynamic_regions_are_those_of_each_steps_attention(sd3):
    seen = []
    with pixelwise(sd3, Phrases(TOKENS), [0.5, 0.3]) as run:
        take = run._source._capture.take
        run._source._capture.take = lambda: seen.append(take()) or seen[-1]
        sample(sd3, 2)
        assert len(seen) == 4
        assert torch.equal(run.masks, from_attention(seen[-1], (0.5, 0.3), (SIDE, SIDE)))
    assert not torch.equal(seen[0], seen[-1])


def test_static_regions_are_those_of_a_whole_synchronous_run(sd3):
    with captured(sd3, TOKENS) as capture:
        plain = sample(sd3, 2)
    masks = from_attention(capture.maps, (0.5, 0.3), (SIDE, SIDE))
    with pixelwise(sd3, masks, [0.5, 0.3]) as run:
        static = sample(sd3, 2)
        assert torch.equal(run.masks, masks)
    with pixelwise(sd3, Phrases(TOKENS), [0.5, 0.3]):
        dynamic = sample(sd3, 2)
    assert not torch.equal(static, plain)
    assert not torch.equal(static, dynamic)


def test_every_image_may_have_its_own_phrases(sd3):
    with pixelwise(sd3, Phrases([TOKENS, TOKENS]), [0.5, 0.3]):
        twice = sample(sd3, 2)
    with pixelwise(sd3, Phrases(TOKENS), [0.5, 0.3]):
        assert same(sample(sd3, 2), twice)
    with pixelwise(sd3, Phrases([TOKENS, [(5,), (0,)]]), [0.5, 0.3]):
        other = sample(sd3, 2)
    assert same(other[:1], twice[:1], 1e-4)
    assert not same(other[1:], twice[1:], 1e-3)


@pytest.mark.parametrize(
    ("regions", "strengths", "words"),
    [
        (Phrases(TOKENS), [0.5], "as many phrases"),
        (Phrases([(1,), ()]), [0.5, 0.3], "at least one token"),
        (Phrases([(1,), (9,)]), [0.5, 0.3], "position 9"),
        (Phrases([TOKENS, TOKENS]), [0.5, 0.3], "2 prompts, but 1 images"),
        (torch.ones(1, 2, SIDE, SIDE, dtype=torch.bool), [0.5, 0.3], "'cat' and 'dog' overlap"),
        (torch.ones(1, 1, 8, SIDE, dtype=torch.bool), [0.5], "do not fit a latent of 16 × 16"),
        (torch.arange(SIDE).expand(1, 1, SIDE, SIDE) > 4, [0.5], "cut through"),
    ],
)
def test_regions_that_do_not_fit_are_sentences_and_leave_nothing(sd3, regions, strengths, words):
    with pytest.raises(RegionError, match=words), pixelwise(sd3, regions, strengths, names=["cat", "dog"]):
        sample(sd3)
    assert "step" not in vars(sd3.scheduler)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in sd3.transformer.modules())


class StopError(Exception):
    """Ends a run in the middle."""


def stopped(pipe, end, **call):
    """A run with another prompt that ends in its third evaluation: in the denoiser, or after the step."""
    calls = []

    def third(*_):
        calls.append(None)
        if len(calls) == 3:
            raise StopError

    def callback(_, step, *__):
        if step == 2:
            raise StopError
        return {}

    hook = pipe.transformer.register_forward_hook(third) if end == "denoiser" else None
    try:
        with pytest.raises(StopError):
            sample(pipe, callback_on_step_end=callback if hook is None else None, **call)
    finally:
        if hook is not None:
            hook.remove()


@pytest.mark.parametrize("end", ["denoiser", "callback"])
def test_a_stopped_run_does_not_change_the_next(sd3, end):
    with pixelwise(sd3, Phrases(TOKENS), [0.5, 0.3]):
        expected = sample(sd3, 2)
    with pixelwise(sd3, Phrases(TOKENS), [0.5, 0.3]):
        stopped(sd3, end, batch=3, guidance_scale=5.0)
        assert torch.equal(sample(sd3, 2), expected)
    with pixelwise(sd3, Phrases(TOKENS), [0.5, 0.3], policy=Constant(0.4)):
        expected = sample(sd3, 2)
        stopped(sd3, end, batch=2)
        assert torch.equal(sample(sd3, 2), expected)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_what_the_denoiser_is_called_with_decides_and_not_the_pipeline(sd3, guidance):
    """The context is on one pipeline, the call on another one that shares its parts."""
    sibling = type(sd3)(**sd3.components)
    sibling.set_progress_bar_config(disable=True)
    for given in ([half()], Phrases(TOKENS[:1])):
        with pixelwise(sd3, given, [0.5]):
            expected = sample(sd3, 2, guidance_scale=guidance)
            sample(sd3, 2, guidance_scale=4.0 - guidance)  # what the first pipeline remembers of its own guidance
            assert same(sample(sibling, 2, guidance_scale=guidance), expected)


def test_an_own_loop_may_run_twice_on_one_grid(sd3):
    """Without another set_timesteps a call after the last step begins a new run."""
    draw = torch.Generator().manual_seed(3)
    x, context = torch.randn(1, 4, SIDE, SIDE, generator=draw), torch.randn(1, 6, 12, generator=draw)
    pooled = torch.randn(1, 8, generator=draw)

    def loop():
        sd3.scheduler._step_index, latent = None, x
        for t in sd3.scheduler.timesteps:
            output = sd3.transformer(
                hidden_states=latent, timestep=t.expand(1), encoder_hidden_states=context, pooled_projections=pooled,
                return_dict=False,
            )[0]  # fmt: skip
            latent = sd3.scheduler.step(output, t, latent, return_dict=False)[0]
        return latent

    sd3.scheduler.set_timesteps(4)
    with torch.no_grad(), pixelwise(sd3, [half()], [0.5]):
        assert torch.equal(loop(), loop())


# --- both asynchronies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regions", ["drawn", "dynamic"])
def test_gamma_0_is_pixelwise_alone_bit_by_bit(sd3, regions):
    given = ([half(), 1 - half()] if regions == "drawn" else Phrases(TOKENS), [0.5, 0.3])
    with pixelwise(sd3, *given):
        expected = sample(sd3, 2)
    with pixelwise(sd3, *given, policy=Constant(0.4), retiming=Retiming(gamma=0.0)):
        assert torch.equal(sample(sd3, 2), expected)
    with pixelwise(sd3, *given, policy=Constant(0.4)) as run:
        assert not same(sample(sd3, 2), expected, 1e-3)
        assert run.deviating.retimer.trace.proposed == pytest.approx([0.0, 0.4, 0.4, 0.4])


@pytest.mark.parametrize(
    "retiming",
    [
        Retiming(),
        Retiming(gamma=2.0, tail_sync=1, within_interval=True),
        Retiming(velocity_coupling=1.0),
        Retiming(target="velocity"),
    ],
)
def test_a_uniform_map_with_a_policy_is_the_asynchronous_run(sd3, retiming):
    with asynchronous(sd3, Constant(0.4), retiming):
        expected = sample(sd3, 2)
    with pixelwise(sd3, [half()], [0.0], policy=Constant(0.4), retiming=retiming):
        assert same(sample(sd3, 2), expected)
    assert not same(sample(sd3, 2), expected, 1e-3)


def test_a_policy_deviates_on_every_pixels_own_schedule(sd3):
    """One region everywhere with k = .5 and D = .4 is the asynchronous run on that region's σ grid."""
    from asyncdiff.tpm.pixelwise.schedules import Pace, sigma_at, trajectory

    with pixelwise(sd3, [torch.ones(8, 8)], [0.5], policy=Constant(0.4)):
        got = sample(sd3)
    sd3.scheduler.set_timesteps(4)
    curve = sigma_at(torch.tensor(trajectory(Pace(4), 0.5), dtype=torch.float64), sd3.scheduler.sigmas.double())[:-1]
    with asynchronous(sd3, Constant(0.4)):
        expected = sample(sd3, sigmas=(curve / (3 - 2 * curve)).tolist())  # the scheduler shifts them by 3
    assert same(got, expected, 1e-4)


def test_a_learned_policy_on_top_sees_what_it_needs(sd3):
    from asyncdiff.tpm.policies import Learned
    from asyncdiff.tpm.policies.network import TPM, TPMConfig

    torch.manual_seed(0)
    tpm = TPM(TPMConfig("sd3", 4, 12, 8, width=16, heads=2)).eval()
    for parameter in tpm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with asynchronous(sd3, Learned(tpm)) as run:
        expected, trace = sample(sd3, 2), run.trace
    with pixelwise(sd3, [half()], [0.0], Pixelwise(text="background"), policy=Learned(tpm)) as run:
        assert same(sample(sd3, 2), expected, 1e-4)
        torch.testing.assert_close(
            torch.tensor(run.deviating.retimer.trace.deviation[1:]), torch.tensor(trace.deviation[1:])
        )


def test_a_policy_for_another_model_is_refused(sd3):
    from asyncdiff.tpm.policies import Curve

    flux = Curve([(0.0, 0.1), (1.0, 0.1)], backbone="flux")
    with pytest.raises(PolicyError, match="flux"), pixelwise(sd3, [half()], [0.5], policy=flux):
        pass


def test_phrases_of_another_prompt_are_refused():
    """Their positions would be read in a text that they were not made for."""
    from asyncdiff.tpm.hosts.diffusers.studio import DiffusersStudio

    pipe, prompt = DiffusersStudio.load(EMBEDDED).pipe, "a red circle above a blue star"
    phrases = Phrases.of(pipe, prompt, ["red circle", "blue star"])
    before, settings = pipe.encode_prompt, {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 3.0}
    with pixelwise(pipe, phrases, [0.5, 0.3]):
        for other in ("a blue star above a red circle", [prompt, "a green ring"]):
            with pytest.raises(RegionError, match="find them in that prompt"):
                pipe(other, **settings)
        with pytest.raises(RegionError, match="find them in that prompt"):
            pipe(prompt, prompt_2="a green ring", **settings)
        pipe(prompt, negative_prompt="a ring", **settings)
        pipe([prompt, prompt], **settings)
    assert pipe.encode_prompt == before
