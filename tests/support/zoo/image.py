"""Flow-matching families that make pictures from a latent."""

from __future__ import annotations

from typing import Any

import torch

from support.zoo.entry import Entry, given, listed, shared

TEXT, POOLED, SIDE, TOKENS = 32, 24, 8, 6
PICTURE = ((16, SIDE, SIDE),)
ONE_FRAME = ((16, 1, SIDE, SIDE),)
FLUX2_LATENT = ((128, 4, 4),)

pooled = {"pooled_output": given(1, POOLED)}
all_tokens = {"attention_mask": torch.ones(1, TOKENS, dtype=torch.long)}


def flux(**changed: Any) -> dict[str, Any]:
    return {
        "in_channels": 16, "out_channels": 16, "context_in_dim": TEXT, "vec_in_dim": POOLED, "hidden_size": 64,
        "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 12, 12],
        "theta": 10000, "patch_size": 2, "qkv_bias": True, "txt_ids_dims": [], **changed,
    }  # fmt: skip


def chroma(**changed: Any) -> dict[str, Any]:
    small = {"in_dim": 64, "out_dim": 64, "hidden_dim": 32, "n_layers": 1, "vec_in_dim": None}
    return flux(in_channels=64, out_channels=64, **small, **changed)


def lumina(**changed: Any) -> dict[str, Any]:
    return {
        "patch_size": 2, "in_channels": 16, "dim": 96, "cap_feat_dim": TEXT, "n_layers": 1, "qk_norm": True,
        "n_heads": 2, "n_kv_heads": 2, "axes_dims": [16, 16, 16], "axes_lens": [64, 64, 64], "rope_theta": 10000.0,
        "ffn_dim_multiplier": 1.0, "n_refiner_layers": 1, **changed,
    }  # fmt: skip


z_image = {
    "dim": 288, "axes_dims": [48, 48, 48], "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
    "rope_theta": 256.0,
}  # fmt: skip


def rows(**changed: Any) -> dict[str, Any]:
    """Widths under the names that Qwen-Image and its relatives share."""
    return {"num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2, **changed}


qwen = rows(in_channels=64, joint_attention_dim=TEXT, axes_dims_rope=(8, 12, 12))

omnigen = rows(
    axes_dim_rope=[8, 12, 12], axes_lens=[64, 64, 64], hidden_size=64, in_channels=16, multiple_of=32,
    num_kv_heads=2, num_refiner_layers=1, patch_size=2,
)  # fmt: skip
del omnigen["attention_head_dim"]


def hunyuan(**changed: Any) -> dict[str, Any]:
    """Hunyuan Video, and the pictures made by its network."""
    return {
        "in_channels": 16, "patch_size": [1, 2, 2], "out_channels": 16, "vec_in_dim": POOLED, "axes_dim": [8, 12, 12],
        "meanflow": False, "context_in_dim": TEXT, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
        "depth_single_blocks": 1, "theta": 256, "qkv_bias": True, "byt5": False, "guidance_embed": True,
        "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False, **changed,
    }  # fmt: skip


hunyuan_image = {
    "patch_size": [1, 1], "in_channels": 64, "out_channels": 64, "axes_dim": [16, 16], "vec_in_dim": None,
}  # fmt: skip

kandinsky = {
    "in_text_dim": TEXT, "in_text_dim2": POOLED, "time_dim": 32, "model_dim": 64, "ff_dim": 64, "num_text_blocks": 1,
    "num_visual_blocks": 1, "axes_dims": (16, 24, 24),
}  # fmt: skip

sd3 = {
    "in_channels": 16, "patch_size": 2, "pos_embed_max_size": 16, "input_size": None, "depth": 1,
    "adm_in_channels": POOLED, "pos_embed_scaling_factor": None, "num_patches": 256, "qk_norm": "rms",
    "x_block_self_attn_layers": [0],
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 64}},
}  # fmt: skip

flux2 = flux(
    in_channels=128, out_channels=128, patch_size=1, vec_in_dim=None, axes_dim=[8, 8, 8, 8], theta=2000,
    global_modulation=True, mlp_silu_act=True, qkv_bias=False, ops_bias=False, default_ref_method="index",
    ref_index_scale=10.0, txt_ids_dims=[3], guidance_embed=True, mlp_ratio=3.0,
)  # fmt: skip

aura = {
    "cond_seq_dim": 2048, "max_seq": 64, "dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 2,
    "global_conddim": 64,
}  # fmt: skip

hidream = rows(
    attention_head_dim=32, axes_dims_rope=[16, 8, 8], caption_channels=[TEXT, TEXT], max_resolution=[16, 16],
    in_channels=16, llama_layers=[0, 0], num_routed_experts=2, num_activated_experts=1, num_single_layers=1,
    out_channels=16, patch_size=2, text_emb_dim=POOLED,
)  # fmt: skip

krea = {
    "features": 256, "channels": 16, "patch": 2, "layers": 1, "heads": 2, "kvheads": 2, "txtlayers": 2, "txtdim": 256,
    "txtheads": 2, "txtkvheads": 2, "tdim": 256, "multiplier": 2,
}  # fmt: skip

ideogram = rows(
    intermediate_size=64, adaln_dim=32, llm_features_dim=TEXT, mrope_section=[4, 6, 6],
)  # fmt: skip

lens = rows(
    in_channels=128, out_channels=32, enc_hidden_dim=TEXT, axes_dims_rope=(8, 12, 12),
    multi_layer_encoder_feature=False, selected_layer_index=(0,),
)  # fmt: skip

ernie = {
    "hidden_size": 64, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 64, "text_in_dim": TEXT,
    "rope_axes_dim": (8, 12, 12),
}  # fmt: skip

ENTRIES = (
    Entry("SD3", "SD3", sd3, PICTURE, TEXT, pooled),
    Entry("Flux", "Flux", flux(), PICTURE, TEXT, pooled),
    Entry("FluxInpaint", "FluxInpaint", flux(in_channels=96), PICTURE, TEXT, pooled),
    Entry("FluxSchnell", "FluxSchnell", flux(), PICTURE, TEXT, pooled),
    Entry("Flux2", "Flux2", flux2, FLUX2_LATENT, TEXT, pooled),  # not read, but hosts before 0.9 want it to be there
    Entry(
        "LongCatImage", "LongCatImage", flux(vec_in_dim=None, context_in_dim=3584, txt_ids_dims=[1, 2]), PICTURE, 3584,
    ),
    Entry("Chroma", "Chroma", chroma(), PICTURE, TEXT, pooled),
    Entry("AuraFlow", "AuraFlow", aura, ((4, SIDE, SIDE),), 2048),
    Entry("Lumina2", "Lumina2", lumina(), PICTURE, TEXT),
    Entry("ZImage", "ZImage", lumina(**z_image), PICTURE, TEXT),
    Entry(
        "HiDream", "HiDream", hidream, PICTURE, TEXT,
        {**pooled, "conditioning_llama3": given(1, 2, TOKENS, TEXT)},
    ),
    Entry("QwenImage", "QwenImage", qwen, ONE_FRAME, TEXT),
    Entry(
        "QwenImage (reference at timestep 0)", "QwenImage", {**qwen, "default_ref_method": "index_timestep_zero"},
        ONE_FRAME, TEXT, {"reference_latents": listed(shared(1, 16, 1, SIDE, SIDE))},
    ),
    Entry(
        "Omnigen2", "Omnigen2", {**omnigen, "text_feat_dim": TEXT, "timestep_scale": 1000.0}, PICTURE, TEXT, all_tokens,
    ),
    Entry(
        "Boogu", "Boogu", {**omnigen, "num_double_stream_layers": 1, "instruction_feat_dim": TEXT}, PICTURE, TEXT,
        all_tokens,
    ),
    Entry("HunyuanImage21", "HunyuanImage21", hunyuan(**hunyuan_image), ((64, 4, 4),), TEXT),
    Entry(
        "HunyuanImage21 (distilled)", "HunyuanImage21", hunyuan(**{**hunyuan_image, "meanflow": True}), ((64, 4, 4),),
        TEXT, cfg=1.0,
    ),
    Entry(
        "HunyuanImage21Refiner", "HunyuanImage21Refiner",
        hunyuan(patch_size=[1, 1, 1], in_channels=128, out_channels=64, vec_in_dim=None, meanflow=True),
        ((64, 1, 4, 4),), TEXT,
    ),
    Entry(
        "Kandinsky5Image", "Kandinsky5Image",
        {**kandinsky, "visual_embed_dim": 64, "rope_scale_factor": (1.0, 1.0, 1.0)},
        ONE_FRAME, TEXT, pooled,
    ),
    Entry("Ideogram4", "Ideogram4", {"in_channels": 128}, FLUX2_LATENT, TEXT, fixed=ideogram),
    Entry("Krea2", "Krea2", krea, ONE_FRAME, 512),
    Entry(
        "MageFlow", "MageFlow", rows(in_channels=128, joint_attention_dim=TEXT, axes_dims_rope=(8, 12, 12)),
        FLUX2_LATENT, TEXT,
    ),
    Entry(
        "JoyImage", "JoyImage",
        {
            "in_channels": 16, "hidden_size": 64, "patch_size": [1, 2, 2], "num_layers": 1, "num_attention_heads": 2,
            "text_dim": TEXT,
        },
        ONE_FRAME, TEXT, fixed={"rope_dim_list": [8, 12, 12]},
    ),
    Entry("Lens", "Lens", lens, FLUX2_LATENT, TEXT),
    Entry("ErnieImage", "ErnieImage", ernie, FLUX2_LATENT, TEXT),
)  # fmt: skip
