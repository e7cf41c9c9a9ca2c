"""Shapes, and the classes that make nothing from noise."""

from __future__ import annotations

import torch

from support.zoo.entry import Entry, shared

TEXT = 32
SHAPE = ((64, 12),)  # a set of 12 vectors


def hunyuan3d(**changed: object) -> dict[str, object]:
    return {
        "in_channels": 64, "context_in_dim": TEXT, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
        "depth_single_blocks": 1, "qkv_bias": True, "guidance_embed": False, **changed,
    }  # fmt: skip


hunyuan3d_21 = {
    "in_channels": 64, "context_dim": TEXT, "hidden_size": 64, "depth": 2, "num_heads": 2, "qkv_bias": False,
    "guidance_cond_proj_dim": None, "num_moe_layers": 1, "num_experts": 2, "moe_top_k": 1,
}  # fmt: skip

splat = {
    "q_token_length": 16, "in_channels": 16, "model_channels": 64, "cond_channels": TEXT, "out_channels": 16,
    "num_blocks": 1, "num_refiner_blocks": 1, "num_heads": 2, "num_head_channels": 32, "cam_channels": 5,
    "cond2_channels": 128, "mlp_ratio": 2,
}  # fmt: skip

POINTS = 12


def points() -> torch.Tensor:
    """Where the vectors of a Trellis 2 latent are: (number in the batch, x, y, z)."""
    return torch.tensor([[0, n % 3, n // 3, n % 2] for n in range(POINTS)], dtype=torch.int32)


trellis = {"resolution": 16, "model_channels": 96, "cond_channels": TEXT, "num_blocks": 1, "mlp_ratio": 2.0}

ENTRIES = (
    Entry("Hunyuan3Dv2", "Hunyuan3Dv2", hunyuan3d(), SHAPE, TEXT),
    Entry("Hunyuan3Dv2mini", "Hunyuan3Dv2mini", hunyuan3d(), SHAPE, TEXT),
    Entry("Hunyuan3Dv2_1", "Hunyuan3Dv2_1", hunyuan3d_21, SHAPE, TEXT),
    Entry("TripoSplat", "TripoSplat", splat, ((16, 16), (1, 5)), TEXT),
    Entry(
        "Trellis2", "Trellis2", trellis, ((32, POINTS, 1),), TEXT,
        {
            "embeds": shared(1, 6, TEXT), "trellis2_coords": points(), "trellis2_generation_mode": "shape_generation",
        },
        fixed={"num_heads": 2},
    ),
    *(
        Entry(name, name, generates=False, fixed={"disable_unet_model_creation": True})
        for name in ("RT_DETR_v4", "DepthAnything3", "SAM3", "SAM31")
    ),
)  # fmt: skip
