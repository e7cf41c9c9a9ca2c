"""Small pipelines of diffusers' UNet families (SD1.x, SDXL) with random weights and no text encoders."""

import inspect

import torch

CONTEXT, POOLED, CHANNELS, SIDE = 12, 8, 4, 8
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
EXTRA = {"image_encoder", "feature_extractor", "safety_checker"}
TEXT = {"text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"}
SETTINGS = {"requires_safety_checker": False, "requires_aesthetics_score": False, "add_watermarker": False}

SDXL = [
    "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLControlNetPipeline", "StableDiffusionXLControlNetImg2ImgPipeline",
    "StableDiffusionXLControlNetInpaintPipeline", "StableDiffusionXLPAGPipeline",
]  # fmt: skip
SD1 = [
    "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
    "StableDiffusionControlNetPipeline",
]  # fmt: skip


def shape(name):
    """The sizes that a UNet and its ControlNet share: two levels."""
    sizes = {
        "layers_per_block": 1, "norm_num_groups": 4, "block_out_channels": (8, 8), "attention_head_dim": 4,
        "cross_attention_dim": CONTEXT, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    }  # fmt: skip
    if "XL" not in name:
        return sizes
    pooled = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    return sizes | pooled | {"projection_class_embeddings_input_dim": POOLED + 6 * 4}


def unet(name):
    from diffusers import UNet2DConditionModel

    blocks = ("CrossAttnUpBlock2D", "UpBlock2D")
    made = UNet2DConditionModel(**shape(name), sample_size=SIDE, up_block_types=blocks)
    return randomised(made)


def controlnet(name):
    from diffusers import ControlNetModel

    return randomised(ControlNetModel(**shape(name), conditioning_embedding_out_channels=(4, 8)))


def randomised(module):
    """Every weight is noise, and the timestep matters."""
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(parameter, std=0.4 if "time_emb" in name else 0.1)
    return module.eval().requires_grad_(False)


def tiny_vae():
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    sizes = {"block_out_channels": [8] * 2, "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": CHANNELS}
    return AutoencoderKL(**blocks, **sizes).eval()


def scheduler(kind="EulerDiscreteScheduler", **settings):
    import diffusers

    settings = {"clip_sample": False, **settings} if kind == "DDIMScheduler" else settings
    return getattr(diffusers, kind)(**SCHEDULE, **settings)


def build(name, kind="EulerDiscreteScheduler", **settings):
    """The pipeline; `settings` are the scheduler's."""
    import diffusers

    pipeline = getattr(diffusers, name)
    wanted = inspect.signature(pipeline.__init__).parameters
    torch.manual_seed(0)
    parts = {"unet": unet(name), "scheduler": scheduler(kind, **settings), "vae": tiny_vae(), **SETTINGS}
    parts |= dict.fromkeys(TEXT | EXTRA)
    if "controlnet" in wanted:
        parts["controlnet"] = controlnet(name)
    if "pag_applied_layers" in wanted:
        parts["pag_applied_layers"] = ["mid"]
    pipe = pipeline(**{part: value for part, value in parts.items() if part in wanted})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed, channels=3):
    return torch.rand(1, channels, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(seed))


def arguments(pipe, batch):
    """What a call of this pipeline needs, with guidance."""
    names = inspect.signature(type(pipe).__call__).parameters
    draw = torch.Generator().manual_seed(5)
    context, pooled = torch.randn(batch, 6, CONTEXT, generator=draw), torch.randn(batch, POOLED, generator=draw)
    given = {
        "prompt_embeds": context,
        "negative_prompt_embeds": -context,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": -pooled,
        "guidance_scale": 4.0,
        "pag_scale": 2.0,
        "num_inference_steps": 3,
        "height": 2 * SIDE,
        "width": 2 * SIDE,
        "strength": 1.0,
        "image": picture(1),
        "control_image": picture(2),
        "mask_image": (picture(3, 1) > 0.5).float(),
        "generator": torch.Generator().manual_seed(1),
        "output_type": "latent",
    }
    return {name: value for name, value in given.items() if name in names}


def run(pipe, batch=1, **changed):
    """The latents that a pipeline ends with."""
    torch.manual_seed(2)
    return pipe(**{**arguments(pipe, batch), **changed}).images
