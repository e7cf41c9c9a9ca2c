"""Per-pixel timesteps on tiny random UNets of diffusers: SD1.x and SD2.x, SDXL, classes, scale-and-shift blocks."""

import copy

import pytest
import torch

pytest.importorskip("diffusers")

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.hosts.diffusers.unet import per_pixel_unet
from asyncdiff.tpm.pixelwise.errors import RegionError, ScheduleError

TOLERANCE = 2.2e-6  # spec/pixelwise.md section 4
CONTEXT, CHANNELS = 12, 4
KINDS = {
    "sd2": {},
    "sdxl": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 4 * 6 + 8,
    },
    "classes": {"num_class_embeds": 3},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
}


def build(kind="sd2", seed=0):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=CHANNELS, out_channels=CHANNELS, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(16, 32, 32), cross_attention_dim=CONTEXT, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), **KINDS[kind],
    ).eval().requires_grad_(False)  # fmt: skip
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet


@pytest.fixture(scope="module", params=list(KINDS))
def unet(request):
    return build(request.param)


def call(unet, batch=2, size=(16, 16)):
    draw = torch.Generator().manual_seed(1)
    arguments = {
        "sample": torch.randn(batch, CHANNELS, *size, generator=draw),
        "timestep": torch.tensor(700),
        "encoder_hidden_states": torch.randn(batch, 5, CONTEXT, generator=draw),
    }
    if unet.config.num_class_embeds:
        arguments["class_labels"] = torch.arange(batch) % 3
    if unet.config.addition_embed_type:
        text, sizes = torch.randn(batch, 8, generator=draw), torch.rand(batch, 6, generator=draw)
        arguments["added_cond_kwargs"] = {"text_embeds": text, "time_ids": sizes}
    return arguments


def run(unet, timesteps=None, reading="corner", **changes):
    with per_pixel_unet(unet, reading) as network:
        network.timesteps = timesteps
        return unet(**{**call(unet), **changes}).sample


def columns(*values):
    """A map (1, 1, 16, 16) with stripes of one value each."""
    return torch.tensor(values).repeat_interleave(16 // len(values)).expand(1, 1, 16, -1)


@pytest.mark.parametrize("t", [991, 437, 0])
def test_a_uniform_map_is_the_scalar_path(unet, t):
    expected = unet(**{**call(unet), "timestep": torch.tensor(t)}).sample
    got = run(unet, torch.full((1, 1, 16, 16), t))
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()
    other = run(unet, torch.full((1, 1, 16, 16), 200))
    assert (other - expected).abs().max() > 1e-2 * expected.abs().max()  # the control: the timestep matters


def test_many_timesteps_of_one_value_each_are_the_scalar_path(unet):
    """The gather itself: neighbours whose timesteps differ by less than fp32 can tell apart."""
    expected = unet(**{**call(unet), "timestep": torch.tensor(500.0)}).sample
    almost = torch.full((2, 1, 16, 16), 500.0)
    almost[..., ::2, 1::3] = torch.nextafter(torch.tensor(500.0), torch.tensor(501.0))
    got = run(unet, almost)
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_without_a_map_and_after_the_context_nothing_differs_by_a_bit(unet):
    expected, keys = unet(**call(unet)).sample, list(unet.state_dict())
    with per_pixel_unet(unet) as network:
        assert torch.equal(unet(**call(unet)).sample, expected)
        network.timesteps = columns(900, 100)
        assert not torch.equal(unet(**call(unet)).sample, expected)
        assert list(unet.state_dict()) == keys
        network.timesteps = None
        assert torch.equal(unet(**call(unet)).sample, expected)
    assert torch.equal(unet(**call(unet)).sample, expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def by_hand(unet, timesteps, arguments):
    """A UNet whose residual blocks are rewritten to take (B, C, h, w) embeddings, computed at every single pixel."""
    other = copy.deepcopy(unet)
    arguments = dict(arguments)
    flat = timesteps.expand(len(arguments["sample"]), -1, -1, -1).flatten()
    emb = other.time_embedding(other.time_proj(flat)).unflatten(0, (-1, 16, 16))
    for extra in (
        other.get_class_embed(arguments["sample"], arguments.get("class_labels")),
        other.get_aug_embed(emb, None, arguments.get("added_cond_kwargs")),
    ):
        emb = emb if extra is None else emb + extra[:, None, None]

    def forward(block):
        def inner(x, temb, *_, **__):
            h = block.conv1(block.nonlinearity(block.norm1(x)))
            step = 16 // h.shape[-1]
            rows = block.time_emb_proj(block.nonlinearity(emb[:, ::step, ::step])).permute(0, 3, 1, 2)
            if block.time_embedding_norm == "default":
                h = block.norm2(h + rows)
            else:
                scale, shift = rows.chunk(2, dim=1)
                h = block.norm2(h) * (1 + scale) + shift
            h = block.conv2(block.nonlinearity(h))
            return ((x if block.conv_shortcut is None else block.conv_shortcut(x)) + h) / block.output_scale_factor

        return inner

    for block in other.modules():
        if type(block).__name__ == "ResnetBlock2D":
            block.forward = forward(block)
    return other(**arguments).sample


def test_a_mixed_map_is_what_the_blocks_compute_pixel_by_pixel(unet):
    draw = torch.Generator().manual_seed(3)
    for batch in (1, 2):
        field = torch.randint(0, 999, (batch, 1, 16, 16), generator=draw)
        expected = by_hand(unet, field, call(unet))
        got = run(unet, field)
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_guidance_repeats_the_map(unet):
    arguments = {**call(unet, batch=4), "encoder_hidden_states": call(unet, 2)["encoder_hidden_states"].repeat(2, 1, 1)}
    field = torch.stack([columns(900, 300)[0], columns(500, 800)[0]])
    got = run(unet, field, **arguments)
    expected = run(unet, field.repeat(2, 1, 1, 1), **arguments)
    assert torch.equal(got, expected)


def test_the_coarse_layers_may_read_means(unet):
    stripes = columns(*[900.0, 100.0] * 8)
    corner, mean = run(unet, stripes), run(unet, stripes, "mean")
    assert not torch.allclose(corner, mean, rtol=1e-3)
    smooth = columns(900.0, 100.0, 900.0, 100.0)  # constant inside the coarsest layer's pixels
    assert torch.equal(run(unet, smooth), run(unet, smooth, "mean"))


def test_bad_use_is_a_sentence():
    unet = build()
    with pytest.raises(HostError, match="UNet2DConditionModel"), per_pixel_unet(torch.nn.Linear(1, 1)):
        pass
    with per_pixel_unet(unet), pytest.raises(HostError, match="already"), per_pixel_unet(unet):
        pass
    with pytest.raises(HostError, match="do not fit"):
        run(unet, torch.zeros(1, 1, 8, 8))
    with pytest.raises(RegionError, match=r"18 × 16 .* multiples of 4"):
        run(unet, torch.zeros(1, 1, 16, 18), sample=torch.zeros(2, CHANNELS, 16, 18))
    with pytest.raises(ScheduleError, match="corner or mean"):
        run(unet, columns(1.0, 2.0), "median")
    unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(HostError, match="LCM"), per_pixel_unet(unet):
        pass
