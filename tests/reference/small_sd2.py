"""A pipeline folder with the parts, the scheduler and the latents of SD2.1-base: few, narrow layers, random weights."""

import torch

from support.noise_pipelines import tiny_vae
from support.saved_pipelines import clip

CONTEXT = 32
SCHEDULE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
    "set_alpha_to_one": False, "skip_prk_steps": True, "timestep_spacing": "leading",
}  # fmt: skip
DOWN = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
UP = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")


def save_small_sd2(folder, prediction="epsilon"):
    """Cross-attention at 32 × 32 and 16 × 16 of 64 × 64 latents: the published program has these sizes written in."""
    import diffusers

    torch.manual_seed(0)
    tokenizer, text_encoder = clip("CLIPTextModel", hidden=CONTEXT)
    scheduler = diffusers.PNDMScheduler(**SCHEDULE, prediction_type=prediction)
    scheduler.register_to_config(clip_sample=False)  # in SD2.1's own file too, for DDIM
    parts = {"unet": unet(), "vae": tiny_vae(), "text_encoder": text_encoder}
    for part in parts.values():
        part.half().float()  # the program loads halves
    pipe = diffusers.StableDiffusionPipeline(
        **parts, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)


def unet():
    import diffusers

    made = diffusers.UNet2DConditionModel(
        sample_size=64, layers_per_block=1, norm_num_groups=8, block_out_channels=(16, 16, 32, 32),
        attention_head_dim=(1, 2, 4, 4), cross_attention_dim=CONTEXT, use_linear_projection=True,
        down_block_types=DOWN, up_block_types=UP,
    )  # fmt: skip
    return sharpened(made).eval()


def sharpened(network):
    """Larger weights where attention must differ from place to place, and the timestep must matter."""
    scales = {"attn2.to_q": 4.0, "attn2.to_k": 4.0, "time_emb_proj": 3.0}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.mul_(next((scale for part, scale in scales.items() if part in name), 1.0))
    return network
