"""Per-pixel timesteps on diffusers' SD3 with tiny random weights: one and two kinds of attention."""

import copy

import pytest
import torch

pytest.importorskip("diffusers")

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.hosts.diffusers.sd3 import per_pixel
from asyncdiff.tpm.pixelwise.errors import RegionError, ScheduleError

TOLERANCE = 6e-7  # spec/pixelwise.md section 4
CONTEXT, POOLED, CHANNELS = 12, 8, 4


@pytest.fixture(scope="module", params=["one attention", "two attentions"])
def transformer(request):
    """Three blocks, the first of SD3.5's kind or not, with outputs of the order of 1."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=8, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=CONTEXT, caption_projection_dim=16, pooled_projection_dim=POOLED,
        pos_embed_max_size=16, dual_attention_layers=(0,) if request.param == "two attentions" else (),
        qk_norm="rms_norm",
    ).eval().requires_grad_(False)  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def call(batch=2, size=(8, 8)):
    draw = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(batch, CHANNELS, *size, generator=draw),
        "encoder_hidden_states": torch.randn(batch, 5, CONTEXT, generator=draw),
        "pooled_projections": torch.randn(batch, POOLED, generator=draw),
        "timestep": torch.full((batch,), 700.0),
    }


def run(transformer, timesteps=None, text="mean", reading="corner", background=None, **changes):
    with per_pixel(transformer, text, reading) as network:
        network.timesteps, network.background = timesteps, background
        return transformer(**{**call(), **changes}).sample


def field(*values):
    """A map (1, 1, 8, 8) with one value per column of patches."""
    return torch.tensor(values).repeat_interleave(8 // len(values)).expand(1, 1, 8, -1)


@pytest.mark.parametrize("t", [1000.0, 437.5, 3.0])
@pytest.mark.parametrize("text", ["mean", "max", "min"])
def test_a_uniform_map_is_the_scalar_path(transformer, t, text):
    expected = transformer(**{**call(), "timestep": torch.full((2,), t)}).sample
    got = run(transformer, torch.full((1, 1, 8, 8), t), text)
    scale = expected.abs().max()
    assert 0.1 < scale < 100
    assert (got - expected).abs().max() <= TOLERANCE * scale.clamp(min=1)


def test_a_uniform_map_per_image_is_the_scalar_path_with_two_timesteps(transformer):
    maps = torch.stack([torch.full((1, 8, 8), 700.0), torch.full((1, 8, 8), 250.0)])
    got = run(transformer, maps)
    expected = transformer(**{**call(), "timestep": torch.tensor([700.0, 250.0])}).sample
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1)


def test_a_map_that_is_not_uniform_is_another_path(transformer):
    scalar = run(transformer, field(700.0, 700.0))
    assert (run(transformer, field(900.0, 500.0)) - scalar).abs().max() > 1e-3
    assert (run(transformer, field(900.0, 500.0)) - run(transformer, field(500.0, 900.0))).abs().max() > 1e-3


def test_without_attention_every_token_is_the_scalar_run_at_its_own_timestep(transformer):
    alone = copy.deepcopy(transformer)
    for block in alone.transformer_blocks:
        for attention in filter(None, (block.attn, block.attn2)):
            torch.nn.init.zeros_(attention.to_out[0].weight)  # what is left is the gated bias
    times = torch.tensor([[950.0, 800.0], [400.0, 20.0]]).repeat_interleave(4, 0).repeat_interleave(4, 1)[None, None]
    got = run(alone, times)
    for t in times.unique():
        expected = alone(**{**call(), "timestep": t.expand(2)}).sample
        here = (times == t).expand_as(got)
        assert (got - expected)[here].abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1)
        assert (got - expected)[~here].abs().max() > 1e-3


def test_the_texts_timestep_is_an_option(transformer):
    times = field(900.0, 500.0, 500.0, 500.0)
    by_rule = [run(transformer, times, rule, background=700.0) for rule in ("mean", "max", "min", "background")]
    for i, one in enumerate(by_rule):
        for other in by_rule[:i]:
            assert not torch.equal(one, other)
    assert torch.equal(by_rule[0], run(transformer, times, "background", background=600.0))


def test_a_patch_reads_its_corner_or_its_mean(transformer):
    uneven = field(900.0, 700.0, 900.0, 700.0, 900.0, 700.0, 900.0, 700.0)
    background = {"text": "background", "background": 800.0}
    corner, mean = (run(transformer, uneven, reading=reading, **background) for reading in ("corner", "mean"))
    assert torch.equal(corner, run(transformer, field(900.0), **background))
    assert torch.equal(mean, run(transformer, field(800.0), **background))


def test_an_inactive_context_is_bit_identical_and_leaves_nothing(transformer):
    expected = transformer(**call()).sample
    before = {name: len(module._forward_hooks) for name, module in transformer.named_modules()}
    keys = list(transformer.state_dict())
    assert torch.equal(run(transformer), expected)
    with per_pixel(transformer) as network:
        assert list(transformer.state_dict()) == keys
        network.timesteps = field(900.0, 500.0)
        assert not torch.equal(transformer(**call()).sample, expected)
        network.timesteps = None
        assert torch.equal(transformer(**call()).sample, expected)
    with pytest.raises(HostError, match="do not fit"):
        run(transformer, torch.ones(1, 1, 4, 4))  # an error inside the context
    assert torch.equal(transformer(**call()).sample, expected)
    assert {name: len(module._forward_hooks) for name, module in transformer.named_modules()} == before
    assert not transformer._forward_pre_hooks


def test_guidance_repeats_the_map(transformer):
    times = torch.stack([field(900.0, 500.0)[0], field(300.0, 600.0)[0]])
    both = call(batch=4)
    first, second = ({key: value[half] for key, value in both.items()} for half in (slice(0, 2), slice(2, 4)))
    expected = torch.cat([run(transformer, times, **half) for half in (first, second)])
    torch.testing.assert_close(run(transformer, times, **both), expected, rtol=0, atol=2e-6)


def test_positional_latents_and_bfloat16_work(transformer):
    half = copy.deepcopy(transformer).bfloat16()
    arguments = {key: value.bfloat16() for key, value in call().items()}
    latent = arguments.pop("hidden_states")
    with per_pixel(half) as network:
        network.timesteps = field(900.0, 500.0)
        got = half(latent, **arguments).sample
    assert got.dtype == torch.bfloat16
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("shape", [(8, 8), (1, 4, 8, 8), (1, 1, 8, 4), (3, 1, 8, 8)])
def test_a_map_that_does_not_fit_is_a_sentence(transformer, shape):
    with pytest.raises(HostError, match="do not fit a latent"):
        run(transformer, torch.full(shape, 500.0))


def test_bad_use_is_a_sentence(transformer):
    with per_pixel(transformer), pytest.raises(HostError, match="already"), per_pixel(transformer):
        pass
    with pytest.raises(HostError, match="SD3Transformer2DModel"), per_pixel(torch.nn.Linear(1, 1)):
        pass
    with pytest.raises(HostError, match="pooled_projections"):
        run(transformer, field(500.0), pooled_projections=None)
    with pytest.raises(RegionError, match="2 × 2"):
        run(transformer, torch.full((1, 1, 8, 7), 5.0), hidden_states=torch.zeros(2, CHANNELS, 8, 7))
    with pytest.raises(ScheduleError, match="background"):
        run(transformer, field(500.0), text="background")
    chunked = copy.deepcopy(transformer)
    chunked.enable_forward_chunking(1, 1)
    with pytest.raises(HostError, match="disable_forward_chunking"), per_pixel(chunked):
        pass
    transformer(**call())


def test_nothing_is_left_when_attaching_fails(transformer):
    chunked = copy.deepcopy(transformer)
    chunked.transformer_blocks[-1].set_chunk_feed_forward(1, 1)
    with pytest.raises(HostError, match="chunks"), per_pixel(chunked):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in chunked.modules())


def test_too_many_timesteps_of_an_image_are_rounded_whatever_else_is_in_the_batch(transformer, monkeypatch):
    from asyncdiff.tpm.pixelwise import timestep_rows

    monkeypatch.setattr(timestep_rows, "MOST_EXACT", 10)
    many = 600 + 90 * torch.rand(1, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    few = torch.where(many < 640, 640.25, 660.75)
    text = {"text": "background", "background": 600.0}
    alone = [
        run(transformer, field, **text, **{name: value[n : n + 1] for name, value in call().items()})
        for n, field in enumerate((many, few))
    ]
    together = run(transformer, torch.cat([many, few]), **text)
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=2e-6)
    exact = run(transformer, torch.cat([many.round(), few]), **text)
    torch.testing.assert_close(together, exact, rtol=0, atol=2e-6)
    monkeypatch.undo()
    assert (run(transformer, torch.cat([many, few]), **text)[0] - together[0]).abs().max() > 1e-5
