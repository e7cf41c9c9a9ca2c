"""Attention capture on a tiny SD3, against what the attention itself was given."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import SD3Transformer2DModel

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.hosts.diffusers.attention import captured
from asyncdiff.tpm.pixelwise.errors import RegionError
from asyncdiff.tpm.pixelwise.regions import from_attention, from_masks

TOKENS = [(1, 2), (4,)]


@pytest.fixture(scope="module", params=["rms_norm", None])
def pipe(request):
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=8, out_channels=4,
        pos_embed_max_size=16, qk_norm=request.param,
    ).eval().requires_grad_(False)  # fmt: skip
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return SimpleNamespace(transformer=transformer, do_classifier_free_guidance=True)


def call(transformer, seed=1, size=(8, 12), batch=4, **extra):
    draw = torch.Generator().manual_seed(seed)
    return transformer(
        hidden_states=torch.randn(batch, 4, *size, generator=draw),
        encoder_hidden_states=torch.randn(batch, 5, 12, generator=draw),
        pooled_projections=torch.randn(batch, 8, generator=draw),
        timestep=torch.full((batch,), 700.0),
        **extra,
    ).sample


def given_to_attention(monkeypatch, transformer):
    """The maps by hand, from the queries and keys of every scaled_dot_product_attention: image first, then text."""
    seen, real = [], torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, **options):
        image = query.shape[2] - 5
        scores = query[2:, :, :image] @ key[2:, :, image:].transpose(2, 3) / query.shape[3] ** 0.5
        seen.append(scores.exp() / scores.exp().sum(dim=3, keepdim=True))
        return real(query, key, value, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        for seed in (1, 2):
            call(transformer, seed)
    mean = torch.stack(seen).mean(dim=(0, 2))
    return torch.stack([mean[..., list(t)].mean(dim=2) for t in TOKENS], dim=1).reshape(2, 2, 4, 6)


def test_maps_are_the_attention_of_the_conditional_half(pipe, monkeypatch):
    with captured(pipe, TOKENS) as capture:
        for seed in (1, 2):
            call(pipe.transformer, seed)
    expected = given_to_attention(monkeypatch, pipe.transformer)
    torch.testing.assert_close(capture.maps, expected, rtol=1e-4, atol=1e-6)
    assert (capture.maps - expected.flip(0)).abs().max() > 1e-3  # the control: the images are told apart


def test_capturing_changes_nothing_and_leaves_nothing(pipe):
    expected = call(pipe.transformer)
    with captured(pipe, TOKENS) as capture:
        assert torch.equal(call(pipe.transformer), expected)
        maps = capture.maps
        call(pipe.transformer, seed=3, skip_layers=[0])  # skip-layer guidance's call
        assert torch.equal(capture.maps, maps)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pipe.transformer.modules())


def test_maps_become_regions_and_regions_may_be_given_as_masks(pipe):
    with captured(pipe, TOKENS) as capture:
        call(pipe.transformer)
    masks = from_attention(capture.maps, (0.5, 0.3), (8, 12))
    assert masks.shape == (2, 2, 8, 12)
    again = from_masks([masks[:, 0].float(), masks[:, 1].float()], (0.5, 0.3), (8, 12), patch=2)
    assert torch.equal(again, masks)


def test_another_size_starts_anew(pipe):
    with captured(pipe, TOKENS) as capture:
        call(pipe.transformer)
        call(pipe.transformer, size=(8, 8))
        assert capture.maps.shape == (2, 2, 4, 4)


def test_bad_use_is_a_sentence(pipe):
    with captured(pipe, TOKENS) as capture, pytest.raises(HostError, match="No attention"):
        _ = capture.maps
    with captured(pipe, [(9,)]), pytest.raises(RegionError, match="position 9"):
        call(pipe.transformer)
    with pytest.raises(HostError, match="SD3"), captured(SimpleNamespace(transformer=torch.nn.Linear(1, 1)), TOKENS):
        pass
