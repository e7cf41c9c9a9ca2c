"""Small models whose latents are videos, sounds, or both in one, and VAEs of the right rank; inside ComfyUI's process.

The families are core's own classes with random weights. The VAEs repeat a latent's first channels as pixels.
"""

import math
from types import SimpleNamespace

import pytest
import torch

WAN = {
    "dim": 64, "out_dim": 16, "num_heads": 2, "ffn_dim": 64, "num_layers": 1, "patch_size": (1, 2, 2), "freq_dim": 256,
    "text_dim": 32, "in_dim": 16,
}  # fmt: skip
LTXAV = {
    "num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2, "cross_attention_dim": 64,
    "audio_cross_attention_dim": 64, "audio_attention_head_dim": 32, "audio_num_attention_heads": 2,
    "caption_channels": 32, "connector_num_layers": 1, "connector_num_attention_heads": 1,
}  # fmt: skip
ACE = {
    "hidden_size": 64, "text_hidden_dim": 32, "num_dit_layers": 2, "num_lyric_layers": 1, "num_timbre_layers": 1,
    "num_tokenizer_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 32, "intermediate_size": 64,
    "fsq_dim": 64, "encoder_hidden_size": 64, "encoder_intermediate_size": 64, "encoder_num_heads": 2,
}  # fmt: skip
HUNYUAN_IMAGE = {
    "in_channels": 64, "patch_size": [1, 1], "out_channels": 64, "vec_in_dim": None, "axes_dim": [16, 16],
    "meanflow": False, "context_in_dim": 32, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
    "depth_single_blocks": 1, "theta": 256, "qkv_bias": True, "byt5": False, "guidance_embed": True,
    "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
FAMILIES = {
    "wan": ("WAN21_T2V", WAN), "ltxav": ("LTXAV", LTXAV), "ace": ("ACEStep15", ACE),
    "hunyuan-image": ("HunyuanImage21", HUNYUAN_IMAGE),
}  # fmt: skip


def model(name):
    """A MODEL of the family on the CPU, its weights drawn from one seed."""
    return build(*FAMILIES[name])


def build(family, sizes, dtype=torch.float32):
    """A MODEL of one of core's classes (`comfy.supported_models`) with a small network."""
    import comfy.model_patcher
    import comfy.supported_models

    if not hasattr(comfy.supported_models, family):
        pytest.skip(f"this ComfyUI has no {family}")
    kind = getattr(comfy.supported_models, family)
    config = kind({**kind.unet_config, **sizes, "dtype": dtype})
    config.manual_cast_dtype = None
    try:
        made = config.get_model({}, "", device=torch.device("cpu"))
    except TypeError as refused:
        pytest.skip(f"this ComfyUI builds no {family} of these sizes: {refused}")
    _draw(made)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(made, torch.device("cpu"), torch.device("cpu"))


def _draw(network):
    draw = torch.Generator().manual_seed(0)
    for name, value in network.named_parameters():
        value.requires_grad_(False)
        around = 1.0 if value.ndim < 2 and name.endswith(("weight", "scale")) else 0.0
        spread = 0.05 if value.ndim < 2 else 1 / math.sqrt(math.prod(value.shape[1:]))
        value.data.copy_(around + spread * torch.randn(value.shape, generator=draw))


def latent(name, batch=1):
    """An empty LATENT's samples for the family."""
    shapes = {
        "wan": [(16, 3, 8, 8)], "ltxav": [(128, 3, 4, 4), (8, 6, 16)], "ace": [(64, 16)], "hunyuan-image": [(64, 4, 4)],
    }[name]  # fmt: skip
    made = [torch.zeros(batch, *shape) for shape in shapes]
    return made[0] if len(made) == 1 else nested(made)


def nested(parts):
    """Parts that are made together as one latent."""
    return pytest.importorskip("comfy.nested_tensor").NestedTensor(parts)


def conditioning(name, seed=0):
    """A CONDITIONING of random text for the family."""
    draw = torch.Generator().manual_seed(seed)
    extra = {}
    if name == "ltxav":
        extra = {"frame_rate": 25, "attention_mask": torch.ones(1, 6, dtype=torch.long)}
    if name == "ace":
        extra = {"conditioning_lyrics": torch.randn(1, 6, 32, generator=draw)}
    width = 64 if name == "ltxav" else 32
    return [[torch.randn(1, 6, width, generator=draw), extra]]


class PictureVAE:
    """Decodes as core's VAE does: (B, C, H, W) → (B, s·H, s·W, 3); (B, C, T, H, W) → (B, 4·T − 3, s·H, s·W, 3).

    The picture has a fixed texture, as strong as the latent is, so that it has some residual noise.
    """

    output_channels, extra_1d_channel = 3, None

    def __init__(self, latent_dim=2, scale=8, channels=16):
        self.latent_dim, self.scale, self.latent_channels = latent_dim, scale, channels
        self.upscale_ratio = scale if latent_dim == 2 else (lambda t: max(0, 4 * t - 3), scale, scale)
        self.downscale_ratio = scale if latent_dim == 2 else (lambda t: max(0, (t + 3) // 4), scale, scale)
        self.first_stage_model = torch.nn.Linear(1, 1)
        self.decoded = []

    def spacial_compression_encode(self):
        return self.scale

    def decode(self, samples):
        self.decoded.append(tuple(samples.shape))
        if self.latent_dim == 2 and samples.ndim == 5:
            samples = samples[:, :, 0]
        if samples.ndim == 5:
            samples = samples.repeat_interleave(4, dim=2)[:, :, 3:]
        for axis in (-1, -2):
            samples = samples.repeat_interleave(self.scale, dim=axis)
        texture = torch.randn(samples.shape[-2:], generator=torch.Generator().manual_seed(0))
        return (samples[:, :3] * (1 + 0.2 * texture)).sigmoid().movedim(1, -1)


def audio_vae():
    """What the host says of a VAE of sounds."""
    return SimpleNamespace(latent_dim=1, output_channels=2, extra_1d_channel=None, decode=None)
