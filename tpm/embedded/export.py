"""Writing the trained parts as a diffusers pipeline folder of real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

from .text import TextStack

SHIFT = 3.0


def assemble(text: TextStack, transformer: SD3Transformer2DModel, vae: AutoencoderTiny) -> StableDiffusion3Pipeline:
    """A complete SD3.5 pipeline without a T5 encoder, as diffusers and ComfyUI allow."""
    first, second = text.encoders
    parts: dict[str, Any] = {  # the pipeline's annotations know neither a tiny VAE nor a missing T5
        "transformer": transformer.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        "vae": vae.eval(),
        "text_encoder": first.eval(),
        "tokenizer": text.tokenizer,
        "text_encoder_2": second.eval(),
        "tokenizer_2": text.tokenizer,
        "text_encoder_3": None,
        "tokenizer_3": None,
    }
    return StableDiffusion3Pipeline(**parts)


def save_pipeline(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    """Write the pipeline folder in half precision (it is rounded, then loads as float32 by default)."""
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    pipeline.to(torch.float32)
