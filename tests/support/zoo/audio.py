"""Families that make sound; MiniMax H3 and LTX-2 make it beside a video (`video`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from support.zoo.entry import Entry, shared

TEXT = 32


def lengths(*names: str, **options: Any) -> dict[str, Tensor]:
    """The tensors that Stable Audio's conditioner of seconds copies from its checkpoint."""
    import comfy.ldm.audio.embedders

    embedder = comfy.ldm.audio.embedders.NumberConditioner(768, min_val=0, **options).state_dict()
    return {f"conditioner.conditioners.{name}.{part}": value for name in names for part, value in embedder.items()}


def stable_audio() -> dict[str, Tensor]:
    return lengths("seconds_start", "seconds_total", max_val=512)


def stable_audio_3() -> dict[str, Tensor]:
    return lengths("seconds_total", max_val=384, fourier_features_type="expo")


def lyrics(seed: int) -> Tensor:
    return torch.randint(1, 40, (1, 6), generator=torch.Generator().manual_seed(5))


ace = {
    "attention_head_dim": 32, "in_channels": 8, "inner_dim": 64, "max_height": 16, "max_position": 64, "max_width": 64,
    "mlp_ratio": 2.0, "num_attention_heads": 2, "num_layers": 1, "out_channels": 8, "patch_size": [16, 1],
    "speaker_embedding_dim": 512, "text_embedding_dim": TEXT, "ssl_encoder_depths": [1], "ssl_latent_dims": [32],
    "ssl_names": ["a"], "lyric_encoder_vocab_size": 50, "lyric_hidden_size": 1024,
}  # fmt: skip

ace15 = {
    "hidden_size": 64, "text_hidden_dim": TEXT, "num_dit_layers": 2, "num_lyric_layers": 1, "num_timbre_layers": 1,
    "num_tokenizer_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 32, "intermediate_size": 64,
    "fsq_dim": 64, "encoder_hidden_size": 64, "encoder_intermediate_size": 64, "encoder_num_heads": 2,
}  # fmt: skip

dit = {"project_cond_tokens": True, "embed_dim": 64, "depth": 1, "num_heads": 2}

dit3 = {
    **dit, "io_channels": 256, "global_cond_dim": 768, "timestep_features_type": "expo", "global_cond_type": "adaLN",
    "local_add_cond_dim": 257,
}  # fmt: skip

ENTRIES = (
    Entry("StableAudio", "StableAudio", dit, ((64, 16),), 768, tensors=stable_audio),
    Entry("StableAudio3", "StableAudio3", dit3, ((256, 16),), 768, tensors=stable_audio_3),
    Entry("ACEStep", "ACEStep", ace, ((8, 16, 12),), TEXT, {"conditioning_lyrics": lyrics}),
    Entry("ACEStep15", "ACEStep15", ace15, ((64, 16),), TEXT, {"conditioning_lyrics": shared(1, 6, TEXT)}),
    Entry(
        "MiniMaxMusic3", "MiniMaxMusic3", {}, ((128, 16),), 8 * 4096, {"conditioning_scale": torch.ones(1, 1, 1)},
        batch=1,
    ),
)  # fmt: skip
