"""Checkpoints of the real families at a size that a CPU runs: random weights in the official files' own layout.

Stock loaders read every width from the tensors. The context has the width of the embedded pipeline's CLIP, because the
official text encoders have fixed sizes and 11 GB; the VAE is the embedded pipeline's, under the names of core's TAESD.
"""

import json
import math

import torch
from safetensors.torch import load_file, save_file

from host.server import ROOT

EMBEDDED = ROOT / "weights" / "tiny-sd35"
FREQUENCIES = 256  # of the timestep's embedding


def write_sd35(path, depth=2, positions=64):
    """A checkpoint of SD3.5-medium's kind: dual attention in the first block, RMS-normed q and k, its VAE inside."""
    transformer = {f"model.diffusion_model.{name}": value for name, value in sd35(depth, positions).items()}
    save(path, transformer | {f"first_stage_model.{name}": value for name, value in vae().items()})


def write_flux(path, width=128):
    """A transformer of Flux.1-dev's kind: one double and one single block with distilled guidance."""
    save(path, flux(width))


def write_vae(path):
    """An autoencoder of 16 channels."""
    save(path, vae())


def save(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def text_widths():
    """Widths of the context and of the pooled output that the embedded pipeline's CLIP gives."""
    config = json.loads((EMBEDDED / "transformer" / "config.json").read_text(encoding="utf-8"))
    return config["joint_attention_dim"], config["pooled_projection_dim"]


def sd35(depth=1, positions=64):
    width = 64 * depth
    context, pooled = text_widths()
    out = Weights()
    out.matrix("x_embedder.proj", width, 16, 2, 2)
    out.tensors["pos_embed"] = 0.02 * torch.randn(1, positions**2, width, generator=out.generator)
    out.matrix("context_embedder", width, context)
    for name, size in (("t_embedder", FREQUENCIES), ("y_embedder", pooled)):
        out.matrix(f"{name}.mlp.0", width, size)
        out.matrix(f"{name}.mlp.2", width, width)
    for number in range(depth):
        for side in ("context_block", "x_block"):
            block = f"joint_blocks.{number}.{side}"
            dual, last = side == "x_block" and number == 0, side == "context_block" and number == depth - 1
            out.matrix(f"{block}.adaLN_modulation.1", (9 if dual else 2 if last else 6) * width, width)
            for attention in ("attn", "attn2")[: 1 + dual]:
                out.matrix(f"{block}.{attention}.qkv", 3 * width, width)
                out.ones(f"{block}.{attention}.ln_q.weight", 64)
                out.ones(f"{block}.{attention}.ln_k.weight", 64)
                if not last:
                    out.matrix(f"{block}.{attention}.proj", width, width)
            if not last:
                out.matrix(f"{block}.mlp.fc1", 4 * width, width)
                out.matrix(f"{block}.mlp.fc2", width, 4 * width)
    out.matrix("final_layer.adaLN_modulation.1", 2 * width, width)
    out.matrix("final_layer.linear", 2 * 2 * 16, width)
    return out.tensors


def flux(width=128):
    context, pooled = text_widths()
    out = Weights()
    out.matrix("img_in", width, 2 * 2 * 16)
    out.matrix("txt_in", width, context)
    for name, size in (("time_in", FREQUENCIES), ("guidance_in", FREQUENCIES), ("vector_in", pooled)):
        out.matrix(f"{name}.in_layer", width, size)
        out.matrix(f"{name}.out_layer", width, width)
    for side in ("img", "txt"):
        block = f"double_blocks.0.{side}"
        out.matrix(f"{block}_mod.lin", 6 * width, width)
        out.matrix(f"{block}_attn.qkv", 3 * width, width)
        out.ones(f"{block}_attn.norm.query_norm.scale", 128)
        out.ones(f"{block}_attn.norm.key_norm.scale", 128)
        out.matrix(f"{block}_attn.proj", width, width)
        out.matrix(f"{block}_mlp.0", 4 * width, width)
        out.matrix(f"{block}_mlp.2", width, 4 * width)
    out.matrix("single_blocks.0.modulation.lin", 3 * width, width)
    out.matrix("single_blocks.0.linear1", 7 * width, width)
    out.matrix("single_blocks.0.linear2", width, 5 * width)
    out.ones("single_blocks.0.norm.query_norm.scale", 128)
    out.ones("single_blocks.0.norm.key_norm.scale", 128)
    out.matrix("final_layer.adaLN_modulation.1", 2 * width, width)
    out.matrix("final_layer.linear", 2 * 2 * 16, width)
    return out.tensors


def vae():
    """Core's TAESD counts a clamp as the decoder's layer 0."""
    tensors = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    for name, value in load_file(EMBEDDED / "vae" / "diffusion_pytorch_model.safetensors").items():
        part, _, index, rest = name.split(".", 3)
        tensors[f"taesd_{part}.{int(index) + (part == 'decoder')}.{rest}"] = value
    return tensors


def load(state_dict):
    """MODEL, by ComfyUI's own detection of the family; inside a process that is ComfyUI."""
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict(state_dict)


def conditioning(seed=0, tokens=8):
    """A CONDITIONING of random text."""
    context, pooled = text_widths()
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, context, generator=generator)
    return [[text, {"pooled_output": torch.randn(1, pooled, generator=generator)}]]


class Weights:
    """Random tensors by name, the same every time."""

    def __init__(self):
        self.tensors = {}
        self.generator = torch.Generator().manual_seed(0)

    def matrix(self, name, *shape):
        spread = 1 / math.sqrt(math.prod(shape[1:]))
        self.tensors[f"{name}.weight"] = spread * torch.randn(*shape, generator=self.generator)
        self.tensors[f"{name}.bias"] = torch.zeros(shape[0])

    def ones(self, name, size):
        self.tensors[name] = torch.ones(size)
