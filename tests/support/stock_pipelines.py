"""Every stock pipeline of diffusers whose denoiser is SD3's or Flux's, small and with random weights."""

import inspect

import torch

CONTEXT, POOLED, CHANNELS, SIDE = 12, 8, 16, 64
ABSENT = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")


def stock_names():
    """The names of diffusers' pipelines that take an SD3 or a Flux transformer, from diffusers itself."""
    import diffusers

    names = [name for name in dir(diffusers) if name.endswith("Pipeline")]
    return [name for name in names if family_of(getattr(diffusers, name))]


def family_of(kind):
    annotation = inspect.signature(kind.__init__).parameters.get("transformer")
    kinds = {"SD3Transformer2DModel": "sd3", "FluxTransformer2DModel": "flux"}
    return next((family for word, family in kinds.items() if word in str(annotation)), None)


def channels_in(name):
    """Channels of the latent as the transformer sees it, before Flux packs 2 × 2 patches."""
    if "ControlNet" in name:
        return CHANNELS
    if name.startswith(("FluxFill", "VisualCloze")):
        return 2 * CHANNELS + 64  # the latent, the masked image, and the mask's 8 × 8 pixels of each place
    return 2 * CHANNELS if name.startswith("FluxControl") else CHANNELS


def shape(family, channels):
    """The sizes that a transformer and its ControlNet share."""
    sizes = {"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": CONTEXT}
    sizes |= {"pooled_projection_dim": POOLED, "num_layers": 2}
    if family == "flux":
        return sizes | {"in_channels": 4 * channels, "num_single_layers": 1, "guidance_embeds": True}
    return sizes | {"in_channels": channels, "sample_size": 8, "caption_projection_dim": 16, "pos_embed_max_size": 16}


def transformer(family, channels):
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    sizes = shape(family, channels)
    if family == "flux":
        return FluxTransformer2DModel(**sizes, out_channels=4 * CHANNELS, axes_dims_rope=(2, 2, 4))
    return SD3Transformer2DModel(**sizes, out_channels=CHANNELS)


def controlnet(family, name):
    from diffusers import FluxControlNetModel, SD3ControlNetModel

    sizes = shape(family, CHANNELS)
    if family == "flux":
        return FluxControlNetModel(**sizes, axes_dims_rope=[2, 2, 4])
    return SD3ControlNetModel(**sizes, out_channels=CHANNELS, extra_conditioning_channels="Inpaint" in name)


def randomised(module):
    """Zero gates hide the timestep: every weight becomes noise."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module.eval()


def tiny_vae():
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    sizes = {"block_out_channels": [8] * 4, "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": CHANNELS}
    return AutoencoderKL(**blocks, **sizes, scaling_factor=1.0, shift_factor=0.0).eval()


def build(name):
    """(pipeline, its family)."""
    import diffusers

    kind = getattr(diffusers, name)
    family, wanted = family_of(kind), inspect.signature(kind.__init__).parameters
    torch.manual_seed(0)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=family == "flux")
    parts = {"transformer": randomised(transformer(family, channels_in(name))), "scheduler": scheduler}
    parts |= {"vae": tiny_vae(), **{part: None for part in ABSENT if part in wanted}}
    if "controlnet" in wanted:
        parts["controlnet"] = randomised(controlnet(family, name))
    if "pag_applied_layers" in wanted:
        parts["pag_applied_layers"] = ["0"]
    if "resolution" in wanted:
        parts["resolution"] = SIDE
    pipe = kind(**parts)
    for part in (pipe, getattr(pipe, "generation_pipe", pipe), getattr(pipe, "upsampling_pipe", pipe)):
        part.set_progress_bar_config(disable=True)
        if name.startswith("VisualCloze"):
            part.encode_prompt = encode_prompt  # it takes no embeddings
    return pipe, family


def picture(seed, channels=3, batch=1):
    return torch.rand(batch, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def prompts(batch, names):
    draw = torch.Generator().manual_seed(5)
    context, pooled = torch.randn(batch, 6, CONTEXT, generator=draw), torch.randn(batch, POOLED, generator=draw)
    given = {"prompt_embeds": context, "pooled_prompt_embeds": pooled}
    negative = {"negative_prompt_embeds": -context, "negative_pooled_prompt_embeds": -pooled}
    return given | (negative if "negative_prompt_embeds" in names else {})


def encode_prompt(*_, **__):
    """(context, pooled, text ids), as Flux's own gives them."""
    given = prompts(1, ())
    return given["prompt_embeds"], given["pooled_prompt_embeds"], torch.zeros(6, 3)


def arguments(pipe, batch):
    """What a call of this pipeline needs; guidance is on wherever there is any."""
    from PIL import Image

    names = inspect.signature(type(pipe).__call__).parameters
    given = {
        **prompts(batch, names),
        "guidance_scale": 4.0,
        "true_cfg_scale": 3.0,
        "pag_scale": 2.0,
        "num_inference_steps": 5,
        "height": SIDE,
        "width": SIDE,
        "strength": 0.7,
        "image": picture(1),
        "control_image": picture(2),
        "mask_image": (picture(3, 1) > 0.5).float(),
        "control_mask": (picture(3, 1) > 0.5).float(),
        "max_area": SIDE * SIDE,
        "_auto_resize": False,
        "generator": torch.Generator().manual_seed(1),
        "output_type": "latent",
    }
    if "content_prompt" in names:
        cell = Image.new("RGB", (SIDE, SIDE), (200, 90, 30))
        given |= {"image": [[cell, cell], [cell, None]], "task_prompt": "a task", "content_prompt": "a cat"}
        given |= {"upsampling_strength": 0.7, "upsampling_height": SIDE, "upsampling_width": SIDE}
        given |= {"prompt_embeds": None, "pooled_prompt_embeds": None}
    return {name: value for name, value in given.items() if name in names}


def run(pipe, batch=1, **changed):
    """The latents that a pipeline ends with. Some sample an image's encoding from torch's own generator."""
    torch.manual_seed(2)
    images = pipe(**{**arguments(pipe, batch), **changed}).images
    return images if isinstance(images, torch.Tensor) else torch.stack(list(images))
