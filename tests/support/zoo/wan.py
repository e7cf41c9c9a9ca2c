"""The networks of Wan and what others made of them. All take a video, (channels, frames, height, width)."""

from __future__ import annotations

from typing import Any

from support.zoo.entry import Entry, frames, given, listed, shared

TEXT, SIDE, FRAMES = 32, 8, 3
VIDEO = ((16, FRAMES, SIDE, SIDE),)
WIDE_VIDEO = ((48, FRAMES, SIDE, SIDE),)  # of Wan 2.2's own autoencoder
AUDIO = 1024


def wan(**changed: Any) -> dict[str, Any]:
    return {
        "dim": 64, "in_dim": 16, "out_dim": 16, "num_heads": 2, "ffn_dim": 64, "num_layers": 1, "patch_size": (1, 2, 2),
        "freq_dim": 256, "text_dim": TEXT, **changed,
    }  # fmt: skip


def picture(channels: int = 16, count: int = FRAMES, side: int = SIDE) -> Any:
    return shared(1, channels, count, side, side)


one_picture = {"reference_latents": listed(picture(count=1))}
posed = {**one_picture, "pose_video_latent": picture(side=4)}
from_picture = {"concat_latent_image": picture(), "concat_mask": shared(1, 1, FRAMES, SIDE, SIDE)}
kept_frame = frames(0.0, 1.0, 1.0, side=SIDE)

ENTRIES = (
    Entry("WAN21_T2V", "WAN21_T2V", wan(), VIDEO, TEXT),
    Entry("WAN21_CausalAR_T2V", "WAN21_CausalAR_T2V", wan(), VIDEO, TEXT, cfg=1.0),
    Entry("WAN21_I2V", "WAN21_I2V", wan(in_dim=36), VIDEO, TEXT, from_picture),
    Entry("WAN21_FunControl2V", "WAN21_FunControl2V", wan(in_dim=48), VIDEO, TEXT),
    Entry("WAN21_Camera", "WAN21_Camera", wan(in_dim=32), VIDEO, TEXT),
    Entry("WAN22_Camera", "WAN22_Camera", wan(in_dim=36), VIDEO, TEXT),
    Entry("WAN21_Vace", "WAN21_Vace", wan(vace_in_dim=96, vace_layers=1), VIDEO, TEXT),
    Entry("WAN21_HuMo", "WAN21_HuMo", wan(), VIDEO, TEXT, {**one_picture, "audio_embed": given(1, FRAMES, 8, 5, 1280)}),
    Entry(
        "WAN22_S2V", "WAN22_S2V", wan(audio_dim=AUDIO, num_audio_token=4, audio_inject_layers=[0], cond_dim=16), VIDEO,
        TEXT, {**one_picture, "audio_embed": given(1, 25, AUDIO, 12)},
    ),
    Entry(
        "WAN22_Animate", "WAN22_Animate", wan(in_dim=36, num_layers=5, motion_encoder_dim=512), VIDEO, TEXT,
        {"pose_video_latent": picture(count=FRAMES - 1)},
    ),
    Entry(
        "WAN_Animate2", "WAN_Animate2", wan(in_dim=36), VIDEO, TEXT, {"pose_video_latent": picture(count=FRAMES - 1)},
    ),
    Entry("WAN22_T2V", "WAN22_T2V", wan(in_dim=48, out_dim=48), WIDE_VIDEO, TEXT, mask=kept_frame),
    Entry("WAN21_FlowRVS", "WAN21_FlowRVS", wan(), VIDEO, TEXT),
    Entry("WAN21_SCAIL", "WAN21_SCAIL", wan(in_dim=20), VIDEO, TEXT, posed),
    Entry("WAN21_SCAIL2", "WAN21_SCAIL2", wan(in_dim=20), VIDEO, TEXT, posed, mask=kept_frame),
    Entry("WAN22_WanDancer", "WAN22_WanDancer", wan(in_dim=36, audio_inject_layers=[0]), VIDEO, TEXT),
)  # fmt: skip
