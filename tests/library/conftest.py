"""Tiny pipelines of real diffusers classes with random weights, shared by the tests of the host adapters."""

import pytest
import torch

CONTEXT, POOLED, CHANNELS = 12, 8, 4  # widths of the prompt's parts, latent channels


def sd3_transformer():
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=CONTEXT,
        caption_projection_dim=16,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def flux_transformer():
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=CONTEXT,
        pooled_projection_dim=POOLED,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )


def make_scheduler(family, solver):
    """Euler or Heun. FluxPipeline hands over σ and a shift, which the stock Heun scheduler does not take."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

    class FlowMatchHeunForFlux(FlowMatchHeunDiscreteScheduler):
        def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None):
            super().set_timesteps(num_inference_steps or len(sigmas), device)

    if solver == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=family == "flux")
    return FlowMatchHeunForFlux(shift=3.0) if family == "flux" else FlowMatchHeunDiscreteScheduler(shift=3.0)


def pipeline_class(family, image_to_image):
    import diffusers

    names = {"sd3": "StableDiffusion3{}Pipeline", "flux": "Flux{}Pipeline"}
    return getattr(diffusers, names[family].format("Img2Img" if image_to_image else ""))


def tiny_vae():
    from diffusers import AutoencoderTiny

    channels = dict.fromkeys(("encoder_block_out_channels", "decoder_block_out_channels"), (8,) * 4)
    blocks = dict.fromkeys(("num_encoder_blocks", "num_decoder_blocks"), (1,) * 4)
    return AutoencoderTiny(latent_channels=CHANNELS, **channels, **blocks)


def build_pipe(family, solver="euler", image_to_image=False):
    """A pipeline without text encoders; the same weights every time."""
    torch.manual_seed(0)
    transformer = {"sd3": sd3_transformer, "flux": flux_transformer}[family]().eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # norms and gates start at zero otherwise, and hide the timestep
    absent = ["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"]
    absent += ["text_encoder_3", "tokenizer_3"] if family == "sd3" else []
    scheduler = make_scheduler(family, solver)
    kind = pipeline_class(family, image_to_image)
    pipe = kind(transformer=transformer, scheduler=scheduler, vae=tiny_vae(), **dict.fromkeys(absent))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embed(prompts, width):
    """A stand-in for a text encoder: noise that depends on the prompt's length."""
    return torch.stack([torch.randn(width, generator=torch.Generator().manual_seed(len(p))) for p in prompts])


def encode_prompt(prompt, negative_prompt=None, **_):
    """What StableDiffusion3Pipeline.encode_prompt returns, from `embed`."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    negatives = negative_prompt or [""] * len(prompts)
    contexts = [embed(texts, CONTEXT).unsqueeze(1) for texts in (prompts, negatives)]
    return (*contexts, embed(prompts, POOLED), embed(negatives, POOLED))


@pytest.fixture(scope="session")
def make_pipe():
    """build_pipe(family, solver, image_to_image), where diffusers is installed."""
    pytest.importorskip("diffusers")
    return build_pipe


@pytest.fixture(scope="module")
def studio(make_pipe):
    """A tiny SD3 whose prompt encoder is a table."""
    from asyncdiff.tpm.hosts.diffusers.studio import DiffusersStudio

    pipe = make_pipe("sd3")
    pipe.encode_prompt = encode_prompt
    return DiffusersStudio(pipe)


@pytest.fixture(scope="module")
def flux_studio(make_pipe):
    """A tiny Flux; it has no prompt encoder."""
    from asyncdiff.tpm.hosts.diffusers.studio import DiffusersStudio

    return DiffusersStudio(make_pipe("flux"))
