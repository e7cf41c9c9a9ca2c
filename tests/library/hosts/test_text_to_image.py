"""The studio on every family: prompts in, pictures out, on the grid that it foretold."""

import pytest
import torch

from support import flow_pipelines as flow
from support import noise_pipelines as noise
from support import stock_pipelines as stock
from support.by_latent import ByLatent

pytest.importorskip("diffusers")

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.hosts.diffusers import DiffusersStudio
from asyncdiff.tpm.hosts.diffusers.families import FAMILIES
from asyncdiff.tpm.hosts.diffusers.text_to_image import BY_BACKBONE
from asyncdiff.tpm.hosts.folders import PIPELINES
from asyncdiff.tpm.policies import Constant, Learned
from asyncdiff.tpm.policies.network import TPM
from asyncdiff.tpm.retiming.settings import Retiming

SIZE = (96, 64)
CASES = {
    "Flux2Pipeline": "flux2", "Flux2KleinPipeline": "flux2", "QwenImagePipeline": "qwen-image",
    "ZImagePipeline": "z-image", "StableDiffusionXLPipeline": "sdxl", "StableDiffusionPipeline": "sd1",
}  # fmt: skip


def table(prompts, width, tokens=6):
    """A stand-in for a text encoder: noise that depends on the prompt's length."""
    return torch.stack([torch.randn(tokens, width, generator=torch.Generator().manual_seed(len(p))) for p in prompts])


def listed(prompt):
    return [prompt] if isinstance(prompt, str) else list(prompt)


def flux2_text(prompt, *_, **__):
    context = table(listed(prompt), flow.CONTEXT)
    return context, torch.zeros(len(context), context.shape[1], 4)


def qwen_text(prompt, *_, **__):
    context = table(listed(prompt), flow.CONTEXT)
    return context, torch.ones(context.shape[:2], dtype=torch.long)


def z_text(prompt, negative_prompt, *_, **__):
    return [list(table(texts, flow.CONTEXT)) for texts in (prompt, negative_prompt)]


def sdxl_text(prompt, negative_prompt, *_, **__):
    contexts = [table(texts, noise.CONTEXT) for texts in (prompt, negative_prompt)]
    return (*contexts, *(table(texts, noise.POOLED)[:, 0] for texts in (prompt, negative_prompt)))


def sd1_text(prompt, _device, _count, _guided, negative_prompt, *_, **__):
    return tuple(table(texts, noise.CONTEXT) for texts in (prompt, negative_prompt))


TEXT = {"flux2": flux2_text, "qwen-image": qwen_text, "z-image": z_text, "sdxl": sdxl_text, "sd1": sd1_text}


def make(name, backbone):
    pipe = noise.build(name) if backbone in ("sdxl", "sd1") else flow.build(name)
    text = TEXT[backbone]
    if backbone == "sdxl":  # called by names alone
        pipe.encode_prompt = lambda prompt, negative_prompt, **_: sdxl_text(prompt, negative_prompt)
    elif backbone == "z-image":
        pipe.encode_prompt = lambda prompt, negative_prompt, **_: z_text(prompt, negative_prompt)
    else:
        pipe.encode_prompt = text
    return DiffusersStudio(pipe)


@pytest.mark.parametrize("name", CASES)
def test_a_family_is_rendered(name):
    studio, done = make(name, CASES[name]), []
    assert studio.backbone == CASES[name]
    call = {"prompts": ["a", "bb"], "seeds": [1, 2], "steps": 2, "size": SIZE}
    plain = studio.render(**call)
    assert plain.images.shape == (2, 3, SIZE[1], SIZE[0])
    still = studio.render(**call, policy=Constant(0.4), retiming=Retiming(gamma=0))
    assert torch.equal(still.images, plain.images)
    moved = studio.render(**call, policy=Constant(0.4), progress=lambda *at: done.append(at))
    assert not torch.equal(moved.images, plain.images)
    assert done == [(1, 2), (2, 2)]
    assert moved.trace.sigmas == studio.sigma_grid(2, size=SIZE)
    own = studio.render(**call, policy=Constant(0.4), grid="scheduler")
    assert own.trace.sigmas == studio.sigma_grid(2, "scheduler", SIZE)
    assert not torch.equal(studio.render(**call, guidance=1.5).images, plain.images) or "Klein" in name


@pytest.mark.parametrize("name", CASES)
def test_latents_are_maps_that_a_tpm_made_for_the_pipeline_reads(name):
    studio, policy = make(name, CASES[name]), ByLatent(0.2)
    call = {"prompts": ["a", "bb"], "seeds": [1, 2], "steps": 2, "size": SIZE}
    latents = studio.render(**call, policy=policy, decode=False).images
    shape = policy.states[0].x.shape
    maps = studio.as_map(latents, SIZE)
    assert maps.shape == shape or (
        maps.shape == (2, shape[1] // 4, *(2 * side for side in shape[2:])) and "Klein" in name
    )
    assert shape[-1] * SIZE[1] == shape[-2] * SIZE[0]
    tpm = TPM(studio.tpm_config(width=16, heads=2, layers=1, grid=2)).eval()
    still = studio.render(**call, policy=Learned(tpm), decode=False).images
    assert torch.equal(still, studio.render(**call, decode=False).images)


@pytest.mark.parametrize("name", CASES)
def test_a_negative_prompt_matters_or_is_a_sentence(name):
    studio = make(name, CASES[name])
    call = {"prompts": ["a"], "seeds": [1], "steps": 2, "size": SIZE}
    if CASES[name] == "flux2":
        with pytest.raises(HostError, match=r"Flux\.2 takes no negative prompt"):
            studio.render(**call, negative="bad")
    else:
        assert not torch.equal(studio.render(**call, negative="bad").images, studio.render(**call).images)


def test_a_size_that_the_latent_cannot_have_is_a_sentence():
    with pytest.raises(HostError, match="multiples of"):
        make("ZImagePipeline", "z-image").render(["a"], [1], steps=2, size=(66, 64))


@pytest.mark.parametrize("name", ["FluxFillPipeline", "StableDiffusion3Img2ImgPipeline", "QwenImageEditPipeline"])
def test_a_pipeline_that_needs_a_picture_is_a_sentence(name):
    pipe = flow.build(name) if name in flow.NAMES else stock.build(name)[0]
    with pytest.raises(HostError, match=f"{name} does not make pictures from text alone, as StableDiffusion3Pipeline"):
        DiffusersStudio(pipe).render(["a"], [1], steps=2)


def test_every_family_that_is_driven_is_rendered():
    drawn = {family for each in FAMILIES.values() for family in each.name.split(", ")}
    assert len(drawn) == len(FAMILIES) + 3
    assert len(BY_BACKBONE) == len(FAMILIES) + 2  # SDXL, SD1.x and SD2.x are one class
    assert all(name.endswith("Pipeline") for name in PIPELINES)
