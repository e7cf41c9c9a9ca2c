"""Flux.2, Qwen-Image and Z-Image: the stock pipelines of diffusers, small and with random weights."""

import inspect

import pytest
import torch

from support import flow_pipelines as flow
from support.by_latent import ByLatent

pytest.importorskip("diffusers")

import diffusers

from asyncdiff.tpm.errors import HostError
from asyncdiff.tpm.hosts.diffusers import asynchronous
from asyncdiff.tpm.hosts.diffusers.families import FAMILIES
from asyncdiff.tpm.policies import Constant
from asyncdiff.tpm.retiming.settings import Retiming


def batch_of(name):
    return 1 if name in flow.SINGLE else 2


def embedder(pipe):
    """What embeds the timestep."""
    parts = ("t_embedder", "time_guidance_embed", "time_text_embed")
    return next(getattr(pipe.transformer, name) for name in parts if hasattr(pipe.transformer, name))


def recorder(pipe):
    """σ of each call of the transformer, from what its embedding computes with; and the hooks to remove."""
    seen, inside = [], []
    scale = 1.0 if "Qwen" in type(pipe).__name__ else 1000.0
    clean = hasattr(pipe.transformer, "t_embedder")  # told 1 − σ

    def note(_module, args):
        told = float(args[0].double()[0]) / scale
        if inside and (clean or told):  # a clean reference image is told 0; a ControlNet embeds with the same module
            seen.append(1 - told if clean else told)

    hooks = [
        pipe.transformer.register_forward_pre_hook(lambda *_: inside.append(1)),
        pipe.transformer.register_forward_hook(lambda *_: inside.clear()),
        embedder(pipe).register_forward_pre_hook(note),
    ]
    return seen, hooks


def distinct(values):
    """Without neighbours that repeat: guidance may take two calls."""
    return [value for k, value in enumerate(values) if k == 0 or value != values[k - 1]]


def test_the_pipelines_are_all_there():
    """A pipeline of a later diffusers fails here by its name."""
    classes = ("Flux2Transformer2DModel", "QwenImageTransformer2DModel", "ZImageTransformer2DModel")
    assert set(classes) <= set(FAMILIES)
    names = [name for name in dir(diffusers) if name.startswith(("Flux2", "QwenImage", "ZImage"))]
    kinds = [getattr(diffusers, name) for name in names if name.endswith("Pipeline")]
    found = {k.__name__ for k in kinds if any(c in str(inspect.signature(k.__init__)) for c in classes)}
    assert found == {*flow.NAMES, "ZImageOmniPipeline"}  # the last one needs a SigLIP


@pytest.mark.parametrize("name", flow.NAMES)
def test_a_stock_pipeline_is_driven(name):
    pipe, batch = flow.build(name), batch_of(name)
    reference = flow.run(pipe, batch)
    assert torch.isfinite(reference).all()
    for policy, retiming in (
        (Constant(0.4), Retiming(gamma=0.0)),
        (ByLatent(flat=True), Retiming(velocity_coupling=1.0)),
    ):
        with asynchronous(pipe, policy, retiming):
            assert torch.equal(flow.run(pipe, batch), reference), policy
    before = set(vars(pipe)), set(vars(pipe.scheduler)), set(vars(pipe.transformer))
    seen, hooks = recorder(pipe)
    with asynchronous(pipe, Constant(0.3)) as run:
        changed = flow.run(pipe, batch)
    [hook.remove() for hook in hooks]
    assert (set(vars(pipe)), set(vars(pipe.scheduler)), set(vars(pipe.transformer))) == before
    assert (changed - reference).abs().max() > 1e-4
    assert run.trace.steps == len(run.trace.sigmas) - 1 >= 3
    assert run.trace.proposed[1:] == pytest.approx([0.3] * (run.trace.steps - 1))
    assert distinct(seen) == pytest.approx(run.trace.t_star, rel=1e-5)
    policy = ByLatent(0.2)
    with asynchronous(pipe, policy) as run:
        assert not torch.equal(flow.run(pipe, batch), reference)
    assert all(len(set(entry)) == batch for entry in run.trace.t_star[1:-1])
    assert policy.states[0].x.ndim == 4
    assert policy.states[0].x.shape[1] == flow.channels_of(name)
    assert torch.equal(flow.run(pipe, batch), reference)


@pytest.mark.parametrize("name", ["Flux2Pipeline", "Flux2KleinPipeline", "QwenImagePipeline", "ZImagePipeline"])
def test_a_prediction_that_does_not_depend_on_the_timestep_gives_the_synchronous_result(name):
    pipe = flow.build(name)
    part = embedder(pipe)
    last = part.mlp[2] if hasattr(part, "mlp") else part.timestep_embedder.linear_2
    torch.nn.init.zeros_(last.weight)
    reference = flow.run(pipe, 2)
    for policy in (Constant(0.4), ByLatent(0.3)):
        with asynchronous(pipe, policy):
            assert torch.equal(flow.run(pipe, 2), reference)


UNPACKED = {
    "Flux2Pipeline": lambda x, pipe: x.unflatten(1, (8, 12)).movedim(-1, 1),
    "QwenImagePipeline": lambda x, pipe: pipe._unpack_latents(x, 32, 48, pipe.vae_scale_factor)[:, :, 0],
    "ZImagePipeline": lambda x, pipe: x,
}


@pytest.mark.parametrize("name", UNPACKED)
def test_the_policy_sees_maps_the_prompt_and_the_velocity_of_the_step(name):
    """Euler's step follows from x and v, so that Z-Image's sign and the packing are right."""
    pipe, policy, latents = flow.build(name), ByLatent(0.2), []

    def keep(_pipe, _index, _t, tensors):
        latents.append(tensors["latents"])
        return tensors

    size = {"Flux2Pipeline": {"image": None}}.get(name, {})
    with asynchronous(pipe, policy, Retiming(velocity_coupling=1.0)):
        flow.run(pipe, 2, width=48, callback_on_step_end=keep, **size)
    first, second = policy.states[:2]
    moved = first.x + (first.sigma_next - first.sigma) * first.v
    assert torch.allclose(moved, second.x, atol=1e-5)
    assert torch.equal(second.x, UNPACKED[name](latents[0], pipe))
    assert second.x.shape[-1] / second.x.shape[-2] == 1.5
    prompt = flow.arguments(pipe, 2)["prompt_embeds"]
    assert torch.equal(first.text.context, prompt if isinstance(prompt, torch.Tensor) else torch.stack(prompt))
    assert first.text.pooled is None


def test_z_image_prompts_of_different_lengths_are_filled_up():
    pipe, policy = flow.build("ZImagePipeline"), ByLatent(0.2)
    prompt = flow.arguments(pipe, 2)["prompt_embeds"]
    short = [prompt[0][:4], prompt[1]]
    with asynchronous(pipe, policy):
        flow.run(pipe, 2, prompt_embeds=short)
    assert torch.equal(policy.states[0].text.context[0, :4], short[0])
    assert not policy.states[0].text.context[0, 4:].any()


@pytest.mark.parametrize("deviation", [0.05, -0.3])
@pytest.mark.parametrize(
    "name", ["Flux2Pipeline", "Flux2KleinKVPipeline", "QwenImagePipeline", "QwenImageEditPlusPipeline"]
)
def test_half_precision_is_told_what_the_trace_claims(name, deviation):
    pipe, batch = flow.build(name), batch_of(name)
    pipe.to(torch.bfloat16)
    half = {key: value.bfloat16() for key, value in flow.arguments(pipe, batch).items() if "embeds" in key}
    half = {key: value for key, value in half.items() if "mask" not in key}
    reference = flow.run(pipe, batch, **half)
    for retiming in (Retiming(), Retiming(velocity_coupling=1.0)):
        with asynchronous(pipe, ByLatent(flat=True), retiming):
            assert torch.equal(flow.run(pipe, batch, **half), reference)
    seen, hooks = recorder(pipe)
    with asynchronous(pipe, Constant(deviation)) as run:
        flow.run(pipe, batch, num_inference_steps=8, **half)
    [hook.remove() for hook in hooks]
    assert distinct(seen)[1:] == pytest.approx(run.trace.t_star[1:], rel=1e-5)


def test_another_scheduler_is_a_sentence():
    pipe = flow.build("ZImagePipeline")
    pipe.scheduler = diffusers.EulerDiscreteScheduler()
    with (
        pytest.raises(HostError, match="EulerDiscreteScheduler is not a flow-matching one"),
        asynchronous(pipe, Constant(0.1)),
    ):
        pass


def test_a_pipeline_of_another_family_is_a_sentence_that_lists_those_that_are_driven():
    pipe = flow.build("ZImagePipeline")
    pipe.transformer.__class__ = type("WanTransformer3DModel", (type(pipe.transformer),), {})
    expected = (
        "ZImagePipeline has the denoiser WanTransformer3DModel; asyncdiff drives SD3, SD3.5, Flux, Flux.2, Qwen-Image,"
        " Z-Image, SD1.x, SD2.x and SDXL pipelines."
    )
    with pytest.raises(HostError) as caught, asynchronous(pipe, Constant(0.1)):
        pass
    assert str(caught.value) == expected
