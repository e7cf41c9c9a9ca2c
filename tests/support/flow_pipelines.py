"""Small pipelines of the flow families beside SD3 and Flux: Flux.2, Qwen-Image and Z-Image, with random weights."""

import inspect
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import patch

import torch

from support.stock_pipelines import randomised

CONTEXT, SIDE = 12, 32  # width of the prompt; pixels
FLUX2 = ["Flux2Pipeline", "Flux2KleinPipeline", "Flux2KleinInpaintPipeline", "Flux2KleinKVPipeline"]
QWEN = [
    "QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline", "QwenImageEditPipeline",
    "QwenImageEditPlusPipeline", "QwenImageEditInpaintPipeline", "QwenImageLayeredPipeline",
    "QwenImageControlNetPipeline", "QwenImageControlNetInpaintPipeline",
]  # fmt: skip
Z = [
    "ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline", "ZImageControlNetPipeline",
    "ZImageControlNetInpaintPipeline",
]  # fmt: skip
NAMES = FLUX2 + QWEN + Z
SINGLE = ("QwenImageEditPlusPipeline", "QwenImageLayeredPipeline", "ZImageControlNetInpaintPipeline")  # one at a time


def channels_of(name):
    """Channels of the latent as a map; those of a layered picture differ from its four colours."""
    return 16 if family_of(name) == "flux2" else 8 if "Layered" in name else 4


def family_of(name):
    return "flux2" if name.startswith("Flux2") else "qwen-image" if name.startswith("Qwen") else "z-image"


def transformer(name):
    import diffusers

    heads = {"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": CONTEXT, "num_layers": 1}
    if family_of(name) == "flux2":
        rope, klein = (2, 2, 2, 2), "Klein" in name
        made = diffusers.Flux2Transformer2DModel(
            in_channels=16, num_single_layers=1, axes_dims_rope=rope, timestep_guidance_channels=16,
            guidance_embeds=not klein, **heads,
        )  # fmt: skip
    elif family_of(name) == "qwen-image":
        layered = "Layered" in name
        made = diffusers.QwenImageTransformer2DModel(
            in_channels=4 * channels_of(name), out_channels=channels_of(name), axes_dims_rope=(4, 2, 2),
            use_additional_t_cond=layered, use_layer3d_rope=layered, zero_cond_t="EditPlus" in name, **heads,
        )  # fmt: skip
    else:
        made = diffusers.ZImageTransformer2DModel(
            in_channels=4, dim=16, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=CONTEXT,
            axes_dims=[4, 2, 2], axes_lens=[64, 32, 32],
        )  # fmt: skip
    return randomised(made)


def tiny_vae(name):
    import diffusers

    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    sizes = {"block_out_channels": [8] * 2, "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4}
    if family_of(name) == "flux2":
        return diffusers.AutoencoderKLFlux2(**blocks, **sizes).eval()
    if family_of(name) == "z-image":
        return diffusers.AutoencoderKL(**blocks, **sizes, scaling_factor=1.0, shift_factor=0.0).eval()
    channels = channels_of(name)
    level = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}
    colours = 4 if "Layered" in name else 3
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=channels, input_channels=colours, dim_mult=[1, 1], num_res_blocks=1,
        temperal_downsample=[False], **level,
    ).eval()  # fmt: skip


def controlnet(name):
    import diffusers

    if family_of(name) == "qwen-image":
        heads = {"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": CONTEXT, "num_layers": 1}
        extra = 4 if "Inpaint" in name else 0
        return randomised(
            diffusers.QwenImageControlNetModel(
                in_channels=16, out_channels=4, axes_dims_rope=(4, 2, 2), extra_condition_channels=extra, **heads
            )
        )
    control = diffusers.ZImageControlNetModel(
        control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=9 if "Inpaint" in name else 4,
        dim=16, n_refiner_layers=1, n_heads=2, n_kv_heads=2, add_control_noise_refiner="control_layers",
    )  # fmt: skip
    return randomised(control)


def build(name):
    """The pipeline. Its prompts are tensors."""
    import diffusers

    kind = getattr(diffusers, name)
    wanted = inspect.signature(kind.__init__).parameters
    torch.manual_seed(0)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    parts = {"transformer": transformer(name), "scheduler": scheduler, "vae": tiny_vae(name)}
    parts |= {part: None for part in ("text_encoder", "tokenizer", "processor") if part in wanted}
    if "controlnet" in wanted:
        parts["controlnet"] = controlnet(name)
    pipe = kind(**parts)
    if "Layered" in name:
        pipe.text_encoder = SimpleNamespace(dtype=torch.float32)
        pipe.get_image_caption = lambda *_, **__: "a"
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed, channels=3):
    return torch.rand(1, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def arguments(pipe, batch):
    """What a call of this pipeline needs; guidance is on wherever there is any."""
    from PIL import Image

    name, names = type(pipe).__name__, inspect.signature(type(pipe).__call__).parameters
    context = torch.randn(batch, 6, CONTEXT, generator=torch.Generator().manual_seed(5))
    mask = torch.ones(batch, 6, dtype=torch.long)
    prompts = {"prompt_embeds": context, "negative_prompt_embeds": -context}
    if family_of(name) == "z-image":
        prompts = {key: list(value.unbind()) for key, value in prompts.items()}
    image = Image.new("RGBA" if "Layered" in name else "RGB", (64, 64), (200, 90, 30))
    pictures = name != "Flux2KleinInpaintPipeline" and name.startswith(("Flux2", "QwenImageEdit", "QwenImageLayered"))
    given = {
        **prompts,
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds_mask": mask,
        "true_cfg_scale": 3.0,
        "guidance_scale": 4.0 if family_of(name) != "qwen-image" else None,
        "num_inference_steps": 3,
        "height": SIDE,
        "width": SIDE,
        "strength": 1.0,
        "image": image if pictures else picture(1),
        "control_image": picture(2),
        "mask_image": (picture(3, 1) > 0.5).float(),
        "control_mask": (picture(3, 1) > 0.5).float(),
        "layers": 2,
        "generator": torch.Generator().manual_seed(1),
        "output_type": "pt" if "Layered" in name else "latent",  # it has no other
    }
    return {key: value for key, value in given.items() if key in names}


def run(pipe, batch=1, **changed):
    """The latents that a pipeline ends with."""
    torch.manual_seed(2)
    module = sys.modules[type(pipe).__module__]
    sizes = getattr(module, "calculate_dimensions", None)
    small = patch.object(module, "calculate_dimensions", lambda *given: (SIDE, SIDE, *sizes(*given)[2:]))
    with small if sizes else nullcontext():  # reference images would be made 1024 × 1024
        images = pipe(**{**arguments(pipe, batch), **changed}).images
    return images if isinstance(images, torch.Tensor) else torch.stack(list(images))
