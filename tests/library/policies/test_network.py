"""The TPM: its size, its zero, its read-out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from asyncdiff.tpm.errors import PolicyError
from asyncdiff.tpm.policies import presets
from asyncdiff.tpm.policies.arithmetic import fewer_frames
from asyncdiff.tpm.policies.checkpoint import load_tpm
from asyncdiff.tpm.policies.network import FLUX, LOGIT_LIMIT, SD35, TPM, TPMConfig
from asyncdiff.tpm.retiming.contract import StepState, TextCondition

TINY = TPMConfig("sd3", latent_channels=4, context_dim=12, pooled_dim=8, width=16, heads=2, layers=2, grid=2)


def inputs(tpm, batch=2, height=8, width=8):
    torch.manual_seed(1)
    x, v, x0 = torch.randn(3, batch, tpm.config.latent_channels, height, width).unbind()
    text = TextCondition(torch.randn(batch, 5, tpm.config.context_dim), torch.randn(batch, tpm.config.pooled_dim))
    return x, v, x0, torch.rand(batch, 4), tpm.encode_text(text, batch)


def awake(config=TINY):
    torch.manual_seed(0)
    tpm = TPM(config)
    torch.nn.init.normal_(tpm.head.last.weight)
    return tpm


@pytest.mark.parametrize(("config", "millions"), [(SD35, 3.35), (FLUX, 3.11)])
def test_parameter_counts(config, millions):
    with torch.device("meta"):
        tpm = TPM(config)
    assert sum(p.numel() for p in tpm.parameters()) / 1e6 == pytest.approx(millions, rel=0.002)


def test_token_count_and_cost_at_512():
    from torch.utils.flop_counter import FlopCounterMode

    lengths = []
    with torch.device("meta"):
        tpm = TPM(SD35)
        tpm.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
        x = torch.empty(1, 16, 64, 64)
        with FlopCounterMode(display=False) as counter:
            text = tpm.encode_text(TextCondition(torch.empty(1, 154, 4096), torch.empty(1, 2048)), 1)
            tpm(x, x, x, torch.empty(1, 4), text)
    assert lengths == [205]
    assert counter.get_total_flops() / 1e9 == pytest.approx(1.02, rel=0.01)


def plain(tpm, x, v, x0, times, text):
    """The TPM map by map, time by time and with all tokens to the end: what `forward` computes in fewer calls."""
    config = tpm.config

    def wave(values, features, scale):
        frequency = torch.exp(torch.arange(features // 2) * (-math.log(10_000) / (features // 2)))
        angle = scale * values.unsqueeze(-1) * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    axis = wave(torch.arange(config.grid).float(), config.width // 2, 1.0)
    positions = torch.cat([axis.repeat_interleave(config.grid, 0), axis.repeat(config.grid, 1)], dim=-1)
    tokens = []
    for layer, latent in zip(tpm.maps, (x, v, x0), strict=True):
        padded = F.pad(
            4 * torch.tanh(latent / 4), (0, -x.shape[3] % config.patch, 0, -x.shape[2] % config.patch), "replicate"
        )
        pooled = F.adaptive_avg_pool2d(F.gelu(layer.conv(padded)), config.grid)
        tokens.append(pooled.flatten(2).transpose(1, 2) + positions)
    tokens += [text, tpm.times_in(wave(times, config.time_features, 1000.0)) + tpm.times_slot]
    tokens = torch.cat([*tokens, tpm.global_in.expand(len(x), -1, -1)], dim=1)
    for block in tpm.blocks:
        q, k, v = (
            part.reshape(*part.shape[:2], config.heads, -1).transpose(1, 2)
            for part in block.attention_in(tokens).chunk(3, dim=-1)
        )
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        tokens = tokens + block.attention_out((weights @ v).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp_out(F.gelu(block.mlp_in(tokens)))
    read = tokens[:, 3 * config.grid**2 :].flatten(1)
    return tpm.head.last(F.gelu(tpm.head.first(read))).clamp(-LOGIT_LIMIT, LOGIT_LIMIT).unbind(-1)


@pytest.mark.parametrize("config", [TINY, SD35, FLUX], ids=["tiny", "sd35", "flux"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (7, 9), (64, 48)])
def test_it_answers_as_the_plain_formulation(config, height, width):
    tpm = awake(config)
    for parameter in tpm.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    tpm.head.last.weight.data.mul_(0.1)
    given = inputs(tpm, 2, height, width)
    wanted = torch.stack(plain(tpm, *given))
    assert wanted.abs().max() > 0.1
    assert torch.allclose(torch.stack(tpm(*given)), wanted, rtol=0, atol=1e-5)
    assert torch.allclose(torch.stack(tpm(*given, tpm.fixed())), wanted, rtol=0, atol=1e-5)


def test_it_has_the_gradients_of_the_plain_formulation():
    found, wanted = awake(), awake()
    sum(found(*inputs(found))).sum().backward()
    sum(plain(wanted, *inputs(wanted))).sum().backward()
    for (name, ours), theirs in zip(found.named_parameters(), wanted.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5), name


def test_untrained_is_exactly_zero():
    tpm = TPM(TINY)
    a, b = tpm(*inputs(tpm))
    assert torch.equal(a, torch.zeros(2))
    assert torch.equal(b, torch.zeros(2))


def test_output_is_clamped_fp32_per_sample():
    tpm = awake()
    tpm.head.last.weight.data.mul_(1e4)
    a, b = tpm.half().float().bfloat16()(*inputs(tpm))
    assert a.dtype == b.dtype == torch.float32
    assert a.abs().max() == LOGIT_LIMIT
    assert a.shape == b.shape == (2,)


def test_samples_do_not_mix():
    tpm = awake()
    x, v, x0, times, text = inputs(tpm, batch=3)
    together = torch.stack(tpm(x, v, x0, times, text))
    alone = torch.stack(tpm(x[1:2], v[1:2], x0[1:2], times[1:2], text[1:2]))
    assert torch.allclose(together[:, 1:2], alone, atol=1e-5)


def test_every_input_reaches_the_answer():
    tpm = awake()
    given = [part.detach().clone().requires_grad_() for part in inputs(tpm)]
    sum(tpm(*given)).sum().backward()
    assert all(part.grad.abs().sum() > 0 for part in given)


def test_gradients_reach_the_first_layers_once_the_last_is_not_zero():
    tpm = awake()
    sum(tpm(*inputs(tpm))).sum().backward()
    assert all(p.grad is not None for p in tpm.parameters())
    assert tpm.maps[0].conv.weight.grad.abs().sum() > 0
    assert tpm.text.queries.grad.abs().sum() > 0


@pytest.mark.parametrize(("height", "width"), [(7, 9), (1, 1), (3, 64), (13, 5), (16, 16)])
def test_any_latent_size(height, width):
    tpm = awake()
    a, _ = tpm(*inputs(tpm, 1, height, width))
    assert torch.isfinite(a).all()


GOLDEN = {
    (16, 16): [[5.4008331, 4.1852798], [-1.9860479, 4.7119403]],
    (9, 23): [[5.1761971, 3.8999693], [-1.8106042, 4.5759821]],
    (3, 5): [[4.6186924, 3.4500904], [-1.7397722, 4.5371966]],
}


@pytest.mark.parametrize(("height", "width"), GOLDEN)
def test_the_shipped_tpm_answers_as_it_did(height, width):
    tpm = load_tpm(presets()["tiny-sd35-tpm"])[0].double()
    draw = torch.Generator().manual_seed(height)
    size = tpm.config.latent_channels, height, width
    x, v = torch.randn(2, 2, *size, generator=draw, dtype=torch.float64).unbind()
    context, pooled = (
        torch.randn(2, *shape, generator=draw, dtype=torch.float64)
        for shape in ((7, tpm.config.context_dim), (tpm.config.pooled_dim,))
    )
    times = torch.tensor([[0.8, 0.6, 0.75, 0.25], [0.3, 0.2, 0.29, 0.75]], dtype=torch.float64)
    answer = torch.stack(tpm(x, v, x - 0.8 * v, times, tpm.encode_text(TextCondition(context, pooled), 2)))
    assert torch.allclose(answer, torch.tensor(GOLDEN[height, width]), rtol=0, atol=1e-6)


SHAPES = {
    "image": (8, 6), "one frame": (1, 8, 6), "video": (3, 5, 9), "long video": (21, 8, 8), "sound": (37,),
    "short sound": (1,),
}  # fmt: skip


def with_maps(tpm, shape, batch=2, seed=2):
    """Inputs whose maps have this shape."""
    *_, times, text = inputs(tpm, batch)
    maps = torch.randn(3, batch, tpm.config.latent_channels, *shape, generator=torch.Generator().manual_seed(seed))
    return *maps.unbind(), times, text


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_samples_of_every_kind_do_not_mix(shape):
    tpm = awake()
    x, v, x0, times, text = with_maps(tpm, shape, batch=3)
    together = torch.stack(tpm(x, v, x0, times, text))
    assert together.shape == (2, 3)
    assert torch.isfinite(together).all()
    for n in range(3):
        alone = torch.stack(tpm(*(part[n : n + 1] for part in (x, v, x0, times, text))))
        assert torch.allclose(together[:, n : n + 1], alone, atol=1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 19), min_size=1, max_size=3), st.integers(1, 3))
def test_latents_of_every_size_have_a_finite_answer(shape, batch):
    tpm = awake()
    answer = torch.stack(tpm(*with_maps(tpm, shape, batch)))
    assert answer.shape == (2, batch)
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_part_of_every_kind_of_latent_reaches_the_answer(shape):
    tpm = awake()
    given = [part.detach().clone().requires_grad_() for part in with_maps(tpm, shape)]
    sum(tpm(*given)).sum().backward()
    for part in given[:3]:
        assert (part.grad.abs().sum(1) > 0).all()


def test_a_video_of_one_frame_is_an_image():
    tpm = awake()
    x, v, x0, times, text = inputs(tpm)
    video = tpm(*(part.unsqueeze(2) for part in (x, v, x0)), times, text)
    assert torch.equal(torch.stack(video), torch.stack(tpm(x, v, x0, times, text)))


def test_the_order_of_frames_and_of_a_sound_matters():
    tpm = awake()
    for shape in ((4, 5, 9), (64,)):
        x, v, x0, times, text = with_maps(tpm, shape)
        ahead = torch.stack(tpm(x, v, x0, times, text))
        back = torch.stack(tpm(x.flip(2), v.flip(2), x0.flip(2), times, text))
        assert (ahead - back).abs().max() > 1e-4


def test_frames_of_a_long_video_are_averaged_in_their_order():
    frames = torch.arange(8.0).view(1, 8, 1).expand(1, 8, 3)
    assert fewer_frames(frames, 4)[0, :, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    assert fewer_frames(frames[:, :3], 4).shape == (1, 3, 3)


def test_a_tpm_sees_as_many_tokens_of_a_long_video_as_of_four_frames():
    tpm, lengths = awake(), []
    tpm.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    for frames in (1, 2, 4, 81):
        tpm(*with_maps(tpm, (frames, 8, 8)))
    condition = TINY.text_tokens + 1 + 4 + TINY.global_tokens
    assert [length - condition for length in lengths] == [3 * 4 * frames for frames in (1, 2, 4, 4)]


def test_outliers_are_squashed():
    tpm = awake()
    x, v, x0, times, text = inputs(tpm)
    a, b = tpm(x * 1e4, v * 1e4, x0 * 1e4, times, text)
    assert torch.isfinite(a).all()
    assert torch.isfinite(b).all()


def test_times_are_those_of_the_state():
    tpm = TPM(TINY)
    x = torch.zeros(2, 4, 8, 8)
    state = StepState(x, x, 0.8, 0.6, torch.tensor([0.7, 0.75]), index=3, steps=12)
    expected = torch.tensor([[0.8, 0.6, 0.7, 0.25], [0.8, 0.6, 0.75, 0.25]])
    assert torch.allclose(tpm.times(state), expected)


def test_initialisation():
    torch.manual_seed(0)
    tpm = TPM(TPMConfig("sd3", 4, 12, 8, width=64, heads=4, layers=8))
    xavier = (6 / (64 + 64)) ** 0.5
    bound = tpm.blocks[0].attention_out.weight.abs().max().item()
    assert bound == pytest.approx(xavier / 16**0.5, rel=0.02)  # (2L)^-½ with L = 8
    assert all((p == 0).all() for name, p in tpm.named_parameters() if name.endswith("bias"))
    kinds = {type(module).__name__ for module in tpm.modules()}
    assert not kinds & {"Dropout", "LayerNorm"}


@pytest.mark.parametrize(
    "changes",
    [{"width": 0}, {"heads": 3}, {"layers": -1}, {"backbone": "sd xl"}, {"width": 2.5}, {"time_features": 3}],
)
def test_bad_sizes_are_sentences(changes):
    with pytest.raises(PolicyError):
        TPMConfig(**{**TINY.to_dict(), **changes})


def test_wrong_latents_are_sentences():
    tpm = TPM(TINY)
    x, v, x0, times, text = inputs(tpm)
    with pytest.raises(PolicyError, match="batch, 4"):
        tpm(x[:, :3], v, x0, times, text)
    with pytest.raises(PolicyError, match=r"are \(1, 1, 6912\)"):  # video and sound in one
        tpm.check((1, 1, 6912))
    for context, pooled, what in ((11, 8, "context of width 12"), (12, 7, "pooled prompt of width 8")):
        with pytest.raises(PolicyError, match=what):
            tpm.check(x.shape, TextCondition(torch.zeros(1, 5, context), torch.zeros(1, pooled)))
    tpm.check(x.shape, TextCondition(None, torch.zeros(1, 8)))
    for others in ((x[:, :2], v, x0), (x.flatten(1),) * 3):
        with pytest.raises(PolicyError, match="batch, 4"):
            tpm(*others, times, text)
