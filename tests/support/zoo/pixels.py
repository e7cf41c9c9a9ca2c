"""Flow-matching families that make pictures without a latent: their space is the picture itself."""

from __future__ import annotations

from typing import Any

import torch

from support.zoo.entry import Entry, shared
from support.zoo.image import TEXT, chroma, lumina, z_image

PICTURE = ((3, 32, 32),)


def radiance(*, x0: bool) -> dict[str, Any]:
    """Chroma Radiance, whose later checkpoints predict the picture, not the velocity."""
    sizes = chroma(patch_size=8)
    sizes.update(in_channels=3, out_channels=3)
    return {
        **sizes, "nerf_hidden_size": 16, "nerf_mlp_ratio": 2, "nerf_depth": 1, "nerf_max_freqs": 4,
        "nerf_tile_size": 512, "nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32,
        "use_sequential_txt_ids": True, "use_x0": x0,
    }  # fmt: skip


z_pixel = lumina(
    **z_image, patch_size=8, in_channels=3, decoder_hidden_size=16, decoder_num_res_blocks=1, decoder_max_freqs=4,
    decoder_in_channels=192, use_x0=True,
)  # fmt: skip

pixeldit = {
    "num_groups": 2, "hidden_size": 64, "pixel_hidden_size": 16, "pixel_attn_hidden_size": 32, "pixel_num_groups": 2,
    "patch_depth": 1, "pixel_depth": 1, "patch_size": 16, "txt_embed_dim": TEXT, "txt_max_length": 16,
}  # fmt: skip

hidream_o1 = {
    "text_config_overrides": {
        "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 32, "rope_dims": [6, 5, 5],
    },
    "vision_config_overrides": {
        "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "depth": 1, "num_position_embeddings": 16,
        "deepstack_visual_indexes": (),
    },
}  # fmt: skip


def chat(seed: int) -> torch.Tensor:
    """A prompt of HiDream-O1, in its language model's own tokens."""
    words = [151644, 872, 198, 100 + seed, 101, 151645, 198, 151644, 77091, 198, 151669, 151673]
    return torch.tensor([words])


ENTRIES = (
    Entry("ChromaRadiance", "ChromaRadiance", radiance(x0=False), PICTURE, TEXT),
    Entry("ChromaRadiance (x0)", "ChromaRadiance", radiance(x0=True), PICTURE, TEXT),
    Entry("ZImagePixelSpace", "ZImagePixelSpace", z_pixel, PICTURE, TEXT, inner=True),
    Entry("PixelDiTT2I", "PixelDiTT2I", pixeldit, PICTURE, TEXT),
    Entry(
        "PiD", "PiD", {**pixeldit, "patch_depth": 2, "lq_hidden_dim": 16, "lq_num_res_blocks": 1}, PICTURE, TEXT,
        {"lq_latent": shared(1, 16, 1, 1), "degrade_sigma": torch.tensor([0.2])},
    ),
    Entry("HiDreamO1", "HiDreamO1", hidream_o1, ((3, 64, 64),), None, {"text_input_ids": chat}),
)  # fmt: skip
