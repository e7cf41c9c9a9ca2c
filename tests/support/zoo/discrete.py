"""Diffusion transformers over a thousand discrete timesteps, as Stable Diffusion has them: PixArt and Hunyuan-DiT."""

from __future__ import annotations

from typing import Any

import torch

from support.zoo.entry import Entry, given

TEXT, T5, TOKENS = 32, 64, 6
PICTURE = ((4, 8, 8),)
PIXART_PICTURE = ((4, 40, 40),)  # its positions are counted in parts of 64


def pixart(*, micro_condition: bool) -> dict[str, Any]:
    """micro_condition: whether the network is told the picture's size."""
    return {
        "input_size": 8, "hidden_size": 96, "depth": 1, "num_heads": 2, "caption_channels": TEXT,
        "model_max_length": TOKENS, "pe_interpolation": 1.0, "micro_condition": micro_condition,
    }  # fmt: skip


def hydit(**changed: Any) -> dict[str, Any]:
    return {
        "input_size": (8, 8), "hidden_size": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "text_states_dim": TEXT,
        "text_states_dim_t5": T5, "text_len": TOKENS, "text_len_t5": TOKENS, **changed,
    }  # fmt: skip


every = torch.ones(1, TOKENS, dtype=torch.long)
two_texts = {
    "attention_mask": every, "conditioning_mt5xl": given(1, TOKENS, T5), "attention_mask_mt5xl": every,
}  # fmt: skip

size = {"width": 64, "height": 64}

ENTRIES = (
    Entry("PixArtAlpha", "PixArtAlpha", pixart(micro_condition=True), PIXART_PICTURE, TEXT, size),
    Entry("PixArtSigma", "PixArtSigma", pixart(micro_condition=False), PIXART_PICTURE, TEXT),
    Entry("HunyuanDiT", "HunyuanDiT", hydit(size_cond=True, use_style_cond=True), PICTURE, TEXT, two_texts),
    Entry("HunyuanDiT1", "HunyuanDiT1", hydit(), PICTURE, TEXT, two_texts),
)
