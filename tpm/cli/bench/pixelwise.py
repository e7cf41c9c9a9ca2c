"""What a pixel-wise map costs over the synchronous run: small random denoisers, as wide for their depth as real ones.

The tokens, latents and text are those of a 512 × 512 image, for SDXL of a 1024 × 1024 one; the widths are a quarter of
SD3.5-Medium's, SD2.1's and SDXL's.
What a map adds grows with the width, what a block computes with its square: on the real models the share is smaller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ...hosts.diffusers.loading import choose_device
from ...hosts.diffusers.pixelwise import pixelwise
from ...hosts.diffusers.regions import Phrases, RegionSpec
from .retiming import Overhead, interleaved

MAX_PIXELWISE = 1.15  # pixel-wise run / synchronous run
SIDE, TEXT, CONTEXT, POOLED = 64, 77, 256, 128  # latent, tokens and widths of the prompt
REGIONS = (1, 2, 8)


def small_dit() -> Any:
    """StableDiffusion3Pipeline with random weights: 6 of SD3.5-Medium's blocks, a quarter as wide."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer: Any = SD3Transformer2DModel(
        sample_size=SIDE,
        num_layers=6,
        num_attention_heads=6,
        attention_head_dim=64,
        joint_attention_dim=CONTEXT,
        caption_projection_dim=384,
        pooled_projection_dim=POOLED,
        in_channels=16,
        out_channels=16,
        pos_embed_max_size=SIDE // 2,
        dual_attention_layers=(0, 1, 2),
        qk_norm="rms_norm",
    )
    texts = [f"{part}{suffix}" for part in ("text_encoder", "tokenizer") for suffix in ("", "_2", "_3")]
    return quiet(
        StableDiffusion3Pipeline(
            transformer=transformer.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny_vae(16),
            **dict.fromkeys(texts),
        )
    )


def small_unet() -> Any:
    """StableDiffusionPipeline with random weights: SD2.1's UNet, a quarter as wide."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet: Any = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(80, 160, 320, 320),
        norm_num_groups=16,
        cross_attention_dim=CONTEXT,
        attention_head_dim=(2, 4, 8, 8),
        use_linear_projection=True,
    )
    absent = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1, set_alpha_to_one=False)
    return quiet(
        StableDiffusionPipeline(
            unet=unet.eval(), scheduler=scheduler, vae=tiny_vae(4), requires_safety_checker=False, **absent
        )
    )


def small_sdxl() -> Any:
    """StableDiffusionXLPipeline with random weights: SDXL's UNet, a quarter as wide, at its own 1024 × 1024."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet: Any = UNet2DConditionModel(
        sample_size=2 * SIDE,
        block_out_channels=(80, 160, 320),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        norm_num_groups=16,
        cross_attention_dim=CONTEXT,
        attention_head_dim=(2, 4, 8),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=6 * 64 + POOLED,
    )
    absent = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1, set_alpha_to_one=False)
    return quiet(StableDiffusionXLPipeline(unet=unet.eval(), scheduler=scheduler, vae=tiny_vae(4), **absent))


def tiny_vae(channels: int) -> Any:
    """A VAE that tells the pipeline its scale; it is not run."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(latent_channels=channels, scaling_factor=1.0, shift_factor=0.0)


def quiet(pipe: Any) -> Any:
    """The pipeline without its progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn_regions(count: int) -> list[Tensor]:
    """Upright bars across half of the picture, with background between them."""
    masks = [torch.zeros(16, 16) for _ in range(count)]
    for number, mask in enumerate(masks):
        mask[4:12, 2 * number : 2 * number + 1 + (count < 8)] = 1
    return masks


def phrases(count: int) -> Phrases:
    """Regions from the attention to so many words."""
    return Phrases([(3 + number,) for number in range(count)])


def strengths(count: int) -> list[float]:
    """A strength for each region, all of them different: each has timesteps of its own."""
    return [0.3 + 0.5 * number / count for number in range(count)]


def pixelwise_overhead(pipe: Any, regions: RegionSpec, count: int, steps: int = 4, pairs: int = 5) -> Overhead:
    """Time interleaved pairs of a synchronous and a pixel-wise run, up to the latents."""

    def run(context: Callable[[], AbstractContextManager[Any]]) -> Callable[[], float]:
        def timed() -> float:
            with context():
                return timed_run(pipe, steps)

        return timed

    slowed = run(lambda: pixelwise(pipe, regions, strengths(count)))
    return Overhead("pixel-wise", steps, *interleaved(run(nullcontext), slowed, pairs))


def timed_run(pipe: Any, steps: int) -> float:
    """The seconds of one run with guidance."""
    draw = torch.Generator().manual_seed(0)
    context = torch.randn(1, TEXT, CONTEXT, generator=draw)
    call = {"prompt_embeds": context, "negative_prompt_embeds": -context}
    if not hasattr(pipe, "unet") or pipe.unet.config.addition_embed_type:
        pooled = torch.randn(1, POOLED, generator=draw)
        call |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": -pooled}
    side = (pipe.unet if hasattr(pipe, "unet") else pipe.transformer).config.sample_size * pipe.vae_scale_factor
    started = time.perf_counter()
    pipe(**call, num_inference_steps=steps, width=side, height=side, output_type="latent", generator=draw)
    return time.perf_counter() - started


def report(steps: int = 4, pairs: int = 5, device: str | None = None) -> Iterator[tuple[str, str, str]]:
    """The measurements as rows (what, value, target), as they are made. device: the best there is, by default."""
    for name, make in (("SD3.5 blocks", small_dit), ("SD2.1 UNet", small_unet), ("SDXL UNet", small_sdxl)):
        pipe = make().to(choose_device(device))
        for kind, count in product(("drawn", "dynamic"), REGIONS):
            regions = drawn_regions(count) if kind == "drawn" else phrases(count)
            timed = pixelwise_overhead(pipe, regions, count, steps, pairs)
            value = f"{timed.ratio:.3f} (median of {pairs} pairs, {median(timed.plain):.2f} s synchronous)"
            yield f"{name}, {count} {kind} regions: pixel-wise / synchronous run", value, f"≤ {MAX_PIXELWISE}"
