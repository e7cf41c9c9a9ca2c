"""Stable Diffusion 1, 2 and XL, their relatives and the video models made of them; Stable Cascade."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from support.zoo.entry import Entry, given, normal, shared

WIDTH = 32  # of the first level; the official one is 320. The second is 64, one head of attention


def unet(text: int, pooled: int | None = None, **changed: Any) -> dict[str, Any]:
    """Two levels, one residual block each, attention at the second; pooled: width of the prompt's vector."""
    return {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": WIDTH, "channel_mult": (1, 2),
        "num_res_blocks": [1, 1], "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1],
        "transformer_depth_middle": 1, "use_spatial_transformer": True, "legacy": False, "use_checkpoint": False,
        "context_dim": text, "adm_in_channels": pooled, "num_classes": "sequential" if pooled else None, **changed,
    }  # fmt: skip


def video(pooled: int) -> dict[str, Any]:
    """As `unet`, with a frame axis in every block."""
    return unet(
        TEXT, pooled, in_channels=8, use_temporal_attention=True, use_temporal_resblock=True, extra_ff_mix_layer=True,
        use_spatial_context=True, merge_strategy="learned_with_images", merge_factor=0.0, video_kernel_size=[3, 1, 1],
    )  # fmt: skip


def zero123() -> dict[str, Tensor]:
    return {"cc_projection.weight": normal(TEXT, TEXT + 4, seed=1), "cc_projection.bias": normal(TEXT, seed=2)}


def v_prediction() -> dict[str, Tensor]:
    """SD2's v-prediction checkpoints are told from others by how this bias spreads."""
    return {"output_blocks.11.1.transformer_blocks.0.norm1.bias": normal(64)}


def marked(*names: str, value: float = 0.0) -> Any:
    """A checkpoint with these tensors, by which SDXL's variants are told apart."""
    return lambda: dict.fromkeys(names, torch.tensor(value))


TEXT = 32
POOLED = 1280 + 6 * 256  # of SDXL: its constructor embeds six numbers of 256 each beside the pooled prompt
SIDE = 8
PICTURE = ((4, SIDE, SIDE),)
sdxl = {"latent": PICTURE, "text": TEXT, "extra": {"pooled_output": given(1, 1280)}}
clip = {"latent": PICTURE, "text": TEXT}

no_middle = {"transformer_depth_middle": -1}
no_middle_at_all = {"transformer_depth_middle": -2}

cascade = {"c_hidden": [64, 64], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]], "block_repeat": [[1, 1], [1, 1]]}

ENTRIES = (
    Entry("SD15", "SD15", unet(TEXT), **clip),
    Entry("SD15 (inpainting)", "SD15", unet(TEXT, in_channels=9), **clip),
    Entry("SD15_instructpix2pix", "SD15_instructpix2pix", unet(TEXT, in_channels=8), **clip),
    Entry("SD20 (eps)", "SD20", unet(TEXT), **clip),
    Entry("SD20 (v)", "SD20", unet(TEXT), tensors=v_prediction, **clip),
    Entry("SD21UnclipL", "SD21UnclipL", unet(TEXT, 1536), tensors=v_prediction, **clip),
    Entry("SD21UnclipH", "SD21UnclipH", unet(TEXT, 2048), tensors=v_prediction, **clip),
    Entry("SDXL", "SDXL", unet(TEXT, POOLED), **sdxl),
    Entry("SDXL (v, zero terminal SNR)", "SDXL", unet(TEXT, POOLED), tensors=marked("v_pred", "ztsnr"), **sdxl),
    Entry("SDXL (CosXL)", "SDXL", unet(TEXT, POOLED), tensors=marked("edm_vpred.sigma_max", value=120.0), **sdxl),
    Entry("SDXL (Playground 2.5)", "SDXL", unet(TEXT, POOLED), tensors=marked("edm_mean", "edm_std"), **sdxl),
    Entry("SDXL_instructpix2pix", "SDXL_instructpix2pix", unet(TEXT, POOLED, in_channels=8), **sdxl),
    Entry("SDXLRefiner", "SDXLRefiner", unet(TEXT, 1280 + 5 * 256), **sdxl),
    Entry("SSD1B", "SSD1B", unet(TEXT, POOLED, **no_middle), **sdxl),
    Entry("Segmind_Vega", "Segmind_Vega", unet(TEXT, POOLED, **no_middle), **sdxl),
    Entry("KOALA_700M", "KOALA_700M", unet(TEXT, POOLED, **no_middle_at_all), **sdxl),
    Entry("KOALA_1B", "KOALA_1B", unet(TEXT, POOLED), **sdxl),
    Entry("SVD_img2vid", "SVD_img2vid", video(768), batch=3, **clip),
    Entry("SV3D_u", "SV3D_u", video(256), batch=3, **clip),
    Entry("SV3D_p", "SV3D_p", video(1280), batch=3, **clip),
    Entry("Stable_Zero123", "Stable_Zero123", unet(TEXT, in_channels=8), PICTURE, TEXT + 4, tensors=zero123),
    Entry(
        "SD_X4Upscaler", "SD_X4Upscaler", unet(TEXT, in_channels=7), PICTURE, TEXT,
        fixed={"disable_self_attentions": [True, False]},
    ),
    Entry("LotusD", "LotusD", unet(TEXT, 4), generates=False, **clip),
    Entry(
        "Stable_Cascade_C", "Stable_Cascade_C",
        {**cascade, "c_cond": 64, "c_clip_text": TEXT, "c_clip_text_pooled": 24},
        ((16, SIDE, SIDE),), TEXT, {"pooled_output": given(1, 24)},
    ),
    Entry(
        "Stable_Cascade_B", "Stable_Cascade_B", {**cascade, "level_config": ["CT", "CTA"], "c_cond": 64, "c_clip": 24},
        ((4, 16, 16),), TEXT, {"pooled_output": given(1, 24), "stable_cascade_prior": shared(1, 16, 4, 4)},
    ),
)  # fmt: skip
