"""Wan 2.2 at a size that a CPU runs: the host's own classes with random weights, in files of the official layout.

The host reads every width from the tensors, but that of the text: the file says it. Needs the host in this process.
"""

import json
import math

import torch
from safetensors.torch import save_file

from support.stand_ins import text_widths

WIDTH = 128  # one head


def write_wan(path, seed=0):
    """A transformer of Wan 2.2's 14B kind, text to video, which reads the embedded pipeline's text."""
    from comfy.ldm.wan.model import WanModel
    from comfy.ops import manual_cast

    context, _ = text_widths()
    network = WanModel(
        model_type="t2v", dim=WIDTH, ffn_dim=WIDTH, num_heads=1, num_layers=1, text_dim=context, operations=manual_cast
    )
    config = {"transformer": {"text_dim": context}}
    write(path, network, seed, metadata={"config": json.dumps(config)})


def write_wan_vae(path, width=4):
    """The video autoencoder of Wan 2.1: 16 channels, 8 × 8 pixels and 4 frames a latent pixel."""
    from comfy.ldm.wan.vae import WanVAE

    sizes = {"dim": width, "z_dim": 16, "temperal_downsample": [False, True, True]}
    write(path, WanVAE(**sizes), 0)


def write(path, module, seed, metadata=None):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, value in module.state_dict().items():
        fan = math.prod(value.shape[1:]) if value.ndim > 1 else 0
        noise = torch.randn(value.shape, generator=generator)
        tensors[name] = noise / math.sqrt(fan) if fan else (1.0 if "weight" in name else 0.0) + 0.05 * noise
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
