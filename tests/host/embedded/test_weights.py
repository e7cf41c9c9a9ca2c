"""The shipped transformer and VAE in stock ComfyUI, through stock nodes, against diffusers."""

from contextlib import nullcontext

import pytest
import torch

from support import stand_ins
from support.paths import EMBEDDED

pytestmark = pytest.mark.host
SOLVERS = ("euler", "dpmpp_2m", "res_multistep", "heun")
SAME = 2e-5  # of the largest value: the two hosts sum in another order
PROMPT = "a large striped red circle above a small blue square on a starry background"


@pytest.fixture(scope="module")
def studio():
    pytest.importorskip("diffusers")
    from asyncdiff.tpm.hosts.diffusers import DiffusersStudio

    return DiffusersStudio.load(EMBEDDED, device="cpu")


@pytest.fixture(scope="module")
def model(comfy):
    from comfy import sd

    return sd.load_diffusion_model(str(EMBEDDED / "transformer" / "diffusion_pytorch_model.safetensors"))


@pytest.fixture(scope="module")
def vae(comfy):
    """The VAE in the layout of ComfyUI's own loader for tiny autoencoders."""
    from comfy import sd

    return sd.VAE(sd=stand_ins.vae())


def embed(studio, prompt):
    with torch.no_grad():
        context, _, pooled, _ = studio.pipe.encode_prompt(
            prompt, None, None, do_classifier_free_guidance=False, max_sequence_length=0
        )
    return [[context, {"pooled_output": pooled}]]


def in_comfy(comfy, model, studio, sampler="euler"):
    """Raw latents by the function behind stock KSampler; the noise of seed 3."""
    positive, negative = embed(studio, PROMPT), embed(studio, "")
    latent = {"samples": torch.zeros(1, 16, 16, 16)}
    return comfy.common_ksampler(model, 3, 15, 3.0, sampler, "simple", positive, negative, latent)[0]["samples"]


def in_diffusers(studio):
    """The same by StableDiffusion3Pipeline."""
    from asyncdiff.tpm.hosts.diffusers import simple_sigmas

    done = studio.pipe(
        PROMPT, num_inference_steps=15, sigmas=simple_sigmas(15), guidance_scale=3.0,
        latents=torch.randn((1, 16, 16, 16), generator=torch.manual_seed(3)), max_sequence_length=0,
        output_type="latent",
    ).images  # fmt: skip
    return done / studio.pipe.vae.config.scaling_factor + studio.pipe.vae.config.shift_factor


def difference(one, other):
    """The largest difference, as a part of the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def policies(studio):
    from asyncdiff.tpm.policies import Constant, Curve, Learned
    from asyncdiff.tpm.policies.network import TPM

    torch.manual_seed(0)
    tpm = TPM(studio.tpm_config(width=32, heads=2, layers=1)).eval()
    for parameter in tpm.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return {"constant": Constant(0.4), "curve": Curve([(0.0, 0.5), (1.0, -0.2)]), "TPM": Learned(tpm)}


@pytest.mark.parametrize("coupling", [0.0, 1.0])
@pytest.mark.parametrize("name", ["constant", "curve", "TPM"])
def test_both_hosts_give_the_same_asynchronous_latents(comfy, model, studio, name, coupling):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.hosts.diffusers import asynchronous
    from asyncdiff.tpm.retiming.settings import Retiming

    policy, retiming = policies(studio)[name], Retiming(velocity_coupling=coupling)
    with asynchronous(studio.pipe, policy, retiming):
        expected = in_diffusers(studio)
    moved = in_comfy(comfy, attach(model, policy, retiming), studio)
    assert difference(moved, expected) < 2e-3
    assert difference(in_comfy(comfy, model, studio), expected) > 1e-2


def test_stock_sampler_and_decoder_agree_with_diffusers(comfy, model, vae, studio):
    sampled, raw = in_comfy(comfy, model, studio), in_diffusers(studio)
    assert difference(sampled, raw) < 2e-3
    image = vae.decode(sampled)[0].movedim(-1, 0)
    with torch.no_grad():
        expected = (studio.pipe.vae.decode(raw).sample[0] / 2 + 0.5).clamp(0, 1)
    assert float((image - expected).abs().max()) < 0.02


def test_encoding_agrees_with_diffusers(vae, studio):
    image = torch.rand((1, 128, 128, 3), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = studio.pipe.vae.encode(image.movedim(-1, 1) * 2 - 1).latents
    assert float((vae.encode(image) - expected).abs().max()) < 0.02


@pytest.mark.parametrize("deviation", [None, 0.4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_is_the_sampler_of_that_name(comfy, model, studio, solver, deviation):
    """The same pictures from both hosts, synchronous and not; another solver gives others."""
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.hosts.diffusers import asynchronous
    from asyncdiff.tpm.hosts.diffusers.solvers import with_solver
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming

    policy, retiming, euler = Constant(deviation or 0.0), Retiming(tail_sync=1), studio.pipe.scheduler
    studio.pipe.scheduler = with_solver(euler, solver)
    try:
        with nullcontext() if deviation is None else asynchronous(studio.pipe, policy, retiming):
            expected = in_diffusers(studio)
    finally:
        studio.pipe.scheduler = euler
    patched = model if deviation is None else attach(model, policy, retiming)
    assert difference(in_comfy(comfy, patched, studio, solver), expected) < SAME
    others = [name for name in SOLVERS if name != solver]
    assert min(difference(in_comfy(comfy, patched, studio, name), expected) for name in others) > 1e-2
