"""Other families that make videos, some with their sound. A video is (channels, frames, height, width)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from support.zoo.entry import Entry, frames, shared
from support.zoo.image import TEXT, all_tokens, hunyuan, kandinsky, pooled

SIDE = 8
LTX_VIDEO = (128, 3, 4, 4)
HUNYUAN_VIDEO = ((16, 2, SIDE, SIDE),)
HUNYUAN_15_VIDEO = ((32, 2, 4, 4),)

ltx = {
    "num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2, "cross_attention_dim": 64,
    "caption_channels": TEXT,
}  # fmt: skip

ltx_with_audio = {
    **ltx, "audio_cross_attention_dim": 64, "audio_attention_head_dim": 32, "audio_num_attention_heads": 2,
    "connector_num_layers": 1, "connector_num_attention_heads": 1,
}  # fmt: skip

hunyuan_15 = hunyuan(
    patch_size=[1, 1, 1], in_channels=65, out_channels=32, vec_in_dim=None, vision_in_dim=1152,
    use_cond_type_embedding=True, meanflow_sum=True, guidance_embed=False,
)  # fmt: skip

minimax = {
    "hidden_size": 64, "num_layers": 1, "token_refiner_num_layers": 1, "num_attention_heads": 2,
    "attention_head_dim": 128, "ffn_hidden_size": 64, "text_dim": TEXT, "time_embed_hidden_size": 64,
    "time_embed_dim": 32,
}  # fmt: skip


def cosmos(**changed: Any) -> dict[str, Any]:
    """The first Cosmos, trained as EDM."""
    return {
        "max_img_h": 64, "max_img_w": 64, "max_frames": 16, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
        "patch_temporal": 1, "model_channels": 64, "concat_padding_mask": True, "crossattn_emb_channels": TEXT,
        "pos_emb_cls": "rope3d", "pos_emb_learnable": False, "pos_emb_interpolation": "crop", "use_adaln_lora": True,
        "adaln_lora_dim": 16, "num_blocks": 1, "num_heads": 2, "extra_per_block_abs_pos_emb": True,
        "extra_per_block_abs_pos_emb_type": "learnable",
        "block_config": "FA-CA-MLP", "block_x_format": "THWBD", "affline_emb_norm": True, **changed,
    }  # fmt: skip


def predict2(**changed: Any) -> dict[str, Any]:
    """Cosmos Predict 2, a flow model on Cosmos' own noise levels; Anima, on the usual ones."""
    sizes = cosmos(pos_emb_learnable=True, min_fps=1, max_fps=30, rope_enable_fps_modulation=False, **changed)
    sizes["extra_per_block_abs_pos_emb"] = False
    for name in ("block_config", "block_x_format", "affline_emb_norm", "extra_per_block_abs_pos_emb_type"):
        del sizes[name]
    return sizes


def cogvideo(**changed: Any) -> dict[str, Any]:
    return {
        "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 16, "out_channels": 16, "time_embed_dim": 64,
        "text_embed_dim": TEXT, "num_layers": 1, "sample_width": SIDE, "sample_height": SIDE, "sample_frames": 5,
        "max_text_seq_length": 6, "use_rotary_positional_embeddings": True, **changed,
    }  # fmt: skip


mochi = {
    "depth": 1, "patch_size": 2, "num_heads": 24, "hidden_size_x": 768, "hidden_size_y": 32, "mlp_ratio_x": 16.0,
    "mlp_ratio_y": 2.0, "learn_sigma": False, "in_channels": 12, "qk_norm": True, "qkv_bias": False, "out_bias": True,
    "attn_drop": 0.0, "patch_embed_bias": True, "posenc_preserve_area": True, "timestep_mlp_bias": True,
    "attend_to_padding": False, "timestep_scale": 1000.0, "use_t5": True, "t5_feat_dim": TEXT, "t5_token_length": 6,
    "rope_theta": 10000.0,
}  # fmt: skip


def video_and_sound() -> list[Tensor]:
    """A mask that keeps a frame and a half, and the first of the sound."""
    sound = torch.ones(1, 1, 6, 1)
    sound[:, :, :2] = 0.0
    return [frames(0.0, 0.5, 1.0)(), sound.expand(1, 8, 6, 16).clone()]


timed = {**all_tokens, "frame_rate": 25}
picture = shared(1, 16, 2, SIDE, SIDE)

ENTRIES = (
    Entry("GenmoMochi", "GenmoMochi", mochi, ((12, 2, SIDE, SIDE),), TEXT, all_tokens),
    Entry("LTXV", "LTXV", ltx, (LTX_VIDEO,), TEXT, timed, mask=frames(0.0, 0.5, 1.0)),
    Entry("LTXAV", "LTXAV", ltx_with_audio, (LTX_VIDEO, (8, 6, 16)), 64, timed, mask=video_and_sound),
    Entry(
        "MiniMaxH3", "MiniMaxH3", minimax, ((24, 2, 4, 4), (32, 2, 6)), TEXT, batch=1, inner=True,
        mask=frames(0.0, 1.0),
    ),
    Entry("HunyuanVideo", "HunyuanVideo", hunyuan(), HUNYUAN_VIDEO, TEXT, pooled),
    Entry(
        "HunyuanVideo (first frame given)", "HunyuanVideo", hunyuan(guidance_embed=False), HUNYUAN_VIDEO, TEXT,
        {**pooled, "guiding_frame_index": 0},
    ),
    Entry(
        "HunyuanVideoI2V", "HunyuanVideoI2V", hunyuan(in_channels=33), HUNYUAN_VIDEO, TEXT,
        {**pooled, "concat_latent_image": picture}, mask=frames(0.0, 1.0, side=SIDE),
    ),
    Entry(
        "HunyuanVideoSkyreelsI2V", "HunyuanVideoSkyreelsI2V", hunyuan(in_channels=32), HUNYUAN_VIDEO, TEXT,
        {**pooled, "concat_latent_image": picture},
    ),
    Entry("HunyuanVideo15", "HunyuanVideo15", hunyuan_15, HUNYUAN_15_VIDEO, TEXT, pooled),
    Entry(
        "HunyuanVideo15_SR_Distilled", "HunyuanVideo15_SR_Distilled",
        {**hunyuan_15, "in_channels": 98, "meanflow": True},
        HUNYUAN_15_VIDEO, TEXT, pooled, cfg=1.0,
    ),
    Entry("CosmosT2V", "CosmosT2V", cosmos(), HUNYUAN_VIDEO, TEXT),
    Entry("CosmosI2V", "CosmosI2V", cosmos(in_channels=17), HUNYUAN_VIDEO, TEXT, mask=frames(0.0, 1.0, side=SIDE)),
    Entry("CosmosT2IPredict2", "CosmosT2IPredict2", predict2(), ((16, 1, SIDE, SIDE),), TEXT),
    Entry(
        "CosmosI2VPredict2", "CosmosI2VPredict2", predict2(in_channels=17), ((16, 3, SIDE, SIDE),), TEXT,
        mask=frames(0.0, 1.0, 1.0, side=SIDE),
    ),
    Entry("Anima", "Anima", predict2(crossattn_emb_channels=1024), ((16, 1, SIDE, SIDE),), 1024),
    Entry("CogVideoX_T2V", "CogVideoX_T2V", cogvideo(), HUNYUAN_VIDEO, TEXT),
    Entry("CogVideoX_I2V", "CogVideoX_I2V", cogvideo(in_channels=32, ofs_embed_dim=64), HUNYUAN_VIDEO, TEXT),
    Entry("CogVideoX_Inpaint", "CogVideoX_Inpaint", cogvideo(in_channels=48), HUNYUAN_VIDEO, TEXT),
    Entry("Kandinsky5", "Kandinsky5", {**kandinsky, "visual_embed_dim": 132}, HUNYUAN_VIDEO, TEXT, pooled),
    Entry(
        "SeedVR2", "SeedVR2",
        {
            "norm_eps": 1e-5, "num_layers": 2, "mlp_type": "normal", "vid_dim": 64, "txt_in_dim": TEXT, "heads": 2,
            "head_dim": 32, "mm_layers": 1, "expand_ratio": 2, "rope_dim": 16, "rope_type": "rope3d",
        },
        ((16, 1, SIDE, SIDE),), TEXT, {"condition": shared(1, 17, 1, SIDE, SIDE)},
    ),
)  # fmt: skip
