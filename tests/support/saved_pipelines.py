"""Pipeline folders with small random networks and a tokenizer that works, as a user has them on a disk."""

import torch


def clip(kind, hidden=16, **more):
    """(tokenizer, text encoder)."""
    import transformers

    from asyncdiff.tpm.embedded.text import new_tokenizer

    tokenizer = new_tokenizer(24)
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=24, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **more,
    )  # fmt: skip
    return tokenizer, getattr(transformers, kind)(config).eval()


def vae():
    import diffusers

    return diffusers.AutoencoderKL(
        latent_channels=4, norm_num_groups=8, block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip


def unet(context, **more):
    import diffusers

    return diffusers.UNet2DConditionModel(
        sample_size=8, layers_per_block=1, norm_num_groups=8, block_out_channels=(16, 16), cross_attention_dim=context,
        attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **more,
    ).eval()  # fmt: skip


SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def save_sdxl(folder):
    """StableDiffusionXLPipeline with SDXL's scheduler. The context is that of both text encoders."""
    import diffusers

    torch.manual_seed(0)
    (tokenizer, text), (second, projected) = (
        clip("CLIPTextModel"),
        clip("CLIPTextModelWithProjection", hidden=8, projection_dim=8),
    )
    network = unet(
        24, addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=8 + 6 * 4
    )
    scheduler = diffusers.EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading")
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=vae(), unet=network, scheduler=scheduler, tokenizer=tokenizer, text_encoder=text, tokenizer_2=second,
        text_encoder_2=projected, add_watermarker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return folder


def save_sd1(folder):
    """StableDiffusionPipeline with PNDM, as SD1.5 has it."""
    import diffusers

    torch.manual_seed(0)
    tokenizer, text = clip("CLIPTextModel")
    scheduler = diffusers.PNDMScheduler(**SCHEDULE, skip_prk_steps=True)
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae(), unet=unet(16), scheduler=scheduler, tokenizer=tokenizer, text_encoder=text, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return folder
