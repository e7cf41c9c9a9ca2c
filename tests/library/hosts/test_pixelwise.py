"""Pixel-wise denoising on a real SD3 pipeline class of diffusers with tiny random weights."""

import pytest
import torch

pytest.importorskip("diffusers")

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.hosts.diffusers import asynchronous
from asyncdiff.tpm.hosts.diffusers.pixelwise import Pixelwise, pixelwise
from asyncdiff.tpm.pixelwise.errors import RegionError, ScheduleError
from asyncdiff.tpm.pixelwise.schedules import Pace, sigma_at, trajectory
from asyncdiff.tpm.policies import Constant

STEPS, SHIFT = 4, 3.0
CONTEXT, POOLED = 12, 8  # of the pipelines in conftest


def sample(pipe, batch=1, **call):
    """Latents (batch, 4, 16, 16)."""
    draw = torch.Generator().manual_seed(5)
    context, pooled = torch.randn(batch, 6, CONTEXT, generator=draw), torch.randn(batch, POOLED, generator=draw)
    settings = {
        "prompt_embeds": context,
        "pooled_prompt_embeds": pooled,
        "negative_prompt_embeds": -context,
        "negative_pooled_prompt_embeds": -pooled,
        "guidance_scale": 3.0,
        "num_inference_steps": STEPS,
        "height": 16 * pipe.vae_scale_factor,
        "width": 16 * pipe.vae_scale_factor,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(1),
    }
    return pipe(**{**settings, **call}).images


def half(side=32):
    mask = torch.zeros(side, side)
    mask[:, : side // 2] = 1
    return mask


def same(got, expected, tolerance=2e-5):
    return (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture(scope="module")
def pipe(make_pipe):
    return make_pipe("sd3")


def test_without_strength_the_run_is_the_synchronous_one(pipe):
    expected = sample(pipe, 2)
    with pixelwise(pipe, [half()], [0.0]):
        assert same(sample(pipe, 2), expected)
    with pixelwise(pipe, [half()], [0.5]):
        assert not same(sample(pipe, 2), expected, 1e-2)


def test_one_region_for_all_is_the_synchronous_run_on_its_curve(pipe):
    with pixelwise(pipe, [torch.ones(8, 8)], [0.5]):
        got = sample(pipe)
    pipe.scheduler.set_timesteps(STEPS)
    states = torch.tensor(trajectory(Pace(STEPS), 0.5), dtype=torch.float64)
    curve = sigma_at(states, pipe.scheduler.sigmas.double())[:-1]
    expected = sample(pipe, sigmas=(curve / (SHIFT - (SHIFT - 1) * curve)).tolist())  # the scheduler shifts them
    assert same(got, expected, 1e-4)


def test_the_control_is_one_switch(pipe):
    with pixelwise(pipe, [torch.ones(8, 8)], [0.5]):
        everywhere = sample(pipe)
    with pixelwise(pipe, [half(), 1 - half()], [0.5, 0.2], Pixelwise(concave=True)) as run:
        assert torch.equal(sample(pipe), everywhere)
        assert run.masks[:, 0].all()
    with pixelwise(pipe, [half(), 1 - half()], [0.5, 0.2]) as run:
        assert not torch.equal(sample(pipe), everywhere)
        assert run.masks.shape == (1, 2, 16, 16)


def test_curves_and_the_texts_timestep_matter(pipe):
    images = []
    for options in (Pixelwise(), Pixelwise("piecewise"), Pixelwise("exponential"), Pixelwise(text="background")):
        with pixelwise(pipe, [half()], [0.6], options):
            images.append(sample(pipe))
    assert not any(torch.equal(one, other) for i, one in enumerate(images) for other in images[:i])


def test_runs_repeat_inside_a_context_and_leave_nothing_after_it(pipe):
    expected = sample(pipe)
    with pixelwise(pipe, [half()], [0.5]):
        first = sample(pipe)
        assert torch.equal(sample(pipe), first)
        side = 8 * pipe.vae_scale_factor
        assert sample(pipe, num_inference_steps=2, height=side, width=side).shape[-2:] == (8, 8)
    assert "step" not in vars(pipe.scheduler)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pipe.transformer.modules())
    assert torch.equal(sample(pipe), expected)


def test_every_image_may_have_its_own_region(pipe):
    masks = torch.stack([half(), half().T])
    with pixelwise(pipe, [masks], [0.5]):
        together = sample(pipe, 2)
    with pixelwise(pipe, [masks[:1]], [0.5]):
        assert same(sample(pipe, 2)[:1], together[:1], 1e-4)
    with pixelwise(pipe, [masks[1:]], [0.5]):
        assert same(sample(pipe, 2)[1:], together[1:], 1e-4)
    assert not same(together[:1], sample(pipe, 2)[:1], 1e-2)


def test_a_part_that_is_replaced_inside_the_context_is_a_sentence(make_pipe):
    """It would be told the first step's timesteps in every step, or go on with a run that was stopped."""
    for part in ("scheduler", "transformer"):
        pipe, other = make_pipe("sd3"), make_pipe("sd3")
        with pixelwise(pipe, [half()], [0.5]):
            sample(pipe)
            setattr(pipe, part, getattr(other, part))
            with pytest.raises(HostError, match="another scheduler or denoiser"):
                sample(pipe)
        assert torch.equal(sample(pipe), sample(pipe)), "nothing is left of the context"


def test_a_denoiser_that_was_compiled_in_place_is_a_sentence(make_pipe):
    pipe = make_pipe("sd3")
    pipe.transformer.compile(backend="eager", fullgraph=True)
    with pytest.raises(HostError, match="compiled in place"), pixelwise(pipe, [half()], [0.5]):
        sample(pipe)


def test_what_cannot_be_driven_is_a_sentence(pipe, make_pipe):
    cases = [(make_pipe("sd3", "heun"), "first-order"), (make_pipe("flux"), "SD3Transformer2DModel")]
    stochastic = make_pipe("sd3")
    stochastic.scheduler.register_to_config(stochastic_sampling=True)
    for bad, word in [*cases, (stochastic, "stochastic_sampling")]:
        with pytest.raises(HostError, match=word), pixelwise(bad, [half()], [0.5]):
            pass
    with pytest.raises(HostError, match="already"), asynchronous(pipe, Constant(0.2)), pixelwise(pipe, [half()], [0.5]):
        pass
    with pixelwise(pipe, [half()], [0.5]), pytest.raises(HostError, match="already"), pixelwise(pipe, [half()], [0.5]):
        pass
    with pixelwise(pipe, [half()], [0.5]), asynchronous(pipe, Constant(0.2)), pytest.raises(HostError, match="already"):
        sample(pipe)
    assert "step" not in vars(pipe.scheduler)


@pytest.mark.parametrize(
    ("masks", "strengths", "error", "word"),
    [
        ([half()], [1.5], ScheduleError, "0 to 1"),
        ([half()], [0.5, 0.6], RegionError, "2 strengths"),
        ([half() * 0], [0.5], RegionError, "'cat' is empty"),
        ([half()[:8]], [0.5], RegionError, "32 × 8"),
        ([half().expand(3, -1, -1)], [0.5], HostError, "do not fit"),
    ],
)
def test_bad_regions_are_sentences_and_leave_nothing(pipe, masks, strengths, error, word):
    with pytest.raises(error, match=word), pixelwise(pipe, masks, strengths, names=["cat", "dog"]):
        sample(pipe)
    assert "step" not in vars(pipe.scheduler)
    assert not pipe.transformer._forward_pre_hooks
