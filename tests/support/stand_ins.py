"""Checkpoints of the real families at a size that a CPU runs: random weights in the official files' own layout.

Stock loaders read every width from the tensors. The context has the width of the embedded pipeline's CLIP, because the
official text encoders have fixed sizes and 11 GB; the VAE is the embedded pipeline's, under the names of core's TAESD.
"""

import json
import math

import torch
from safetensors.torch import load_file, save_file

from support.server import ROOT

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


def sd35(depth=1, positions=64, dual_blocks=1, widths=None, **where):
    """SD3.5-medium is depth 24, 384 positions, 13 dual blocks, widths (4096, 2048). where: see `Weights`."""
    width = 64 * depth
    context, pooled = widths or text_widths()
    out = Weights(**where)
    out.matrix("x_embedder.proj", width, 16, 2, 2)
    out.tensors["pos_embed"] = 0.02 * out.normal(1, positions**2, width)
    out.matrix("context_embedder", width, context)
    for name, size in (("t_embedder", FREQUENCIES), ("y_embedder", pooled)):
        out.matrix(f"{name}.mlp.0", width, size)
        out.matrix(f"{name}.mlp.2", width, width)
    for number in range(depth):
        for side in ("context_block", "x_block"):
            block = f"joint_blocks.{number}.{side}"
            dual, last = side == "x_block" and number < dual_blocks, side == "context_block" and number == depth - 1
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


def flux(width=128, context=None, pooled=None, double=1, single=1, **where):
    """Flux.1-dev is width 3072, context 4096, pooled 768, 19 double and 38 single blocks. where: see `Weights`."""
    own = text_widths()
    context, pooled = context or own[0], pooled or own[1]
    out = Weights(**where)
    out.matrix("img_in", width, 2 * 2 * 16)
    out.matrix("txt_in", width, context)
    for name, size in (("time_in", FREQUENCIES), ("guidance_in", FREQUENCIES), ("vector_in", pooled)):
        out.matrix(f"{name}.in_layer", width, size)
        out.matrix(f"{name}.out_layer", width, width)
    for block in (f"double_blocks.{number}.{side}" for number in range(double) for side in ("img", "txt")):
        out.matrix(f"{block}_mod.lin", 6 * width, width)
        out.matrix(f"{block}_attn.qkv", 3 * width, width)
        out.ones(f"{block}_attn.norm.query_norm.scale", 128)
        out.ones(f"{block}_attn.norm.key_norm.scale", 128)
        out.matrix(f"{block}_attn.proj", width, width)
        out.matrix(f"{block}_mlp.0", 4 * width, width)
        out.matrix(f"{block}_mlp.2", width, 4 * width)
    for block in (f"single_blocks.{number}" for number in range(single)):
        out.matrix(f"{block}.modulation.lin", 3 * width, width)
        out.matrix(f"{block}.linear1", 7 * width, width)
        out.matrix(f"{block}.linear2", width, 5 * width)
        out.ones(f"{block}.norm.query_norm.scale", 128)
        out.ones(f"{block}.norm.key_norm.scale", 128)
    out.matrix("final_layer.adaLN_modulation.1", 2 * width, width)
    out.matrix("final_layer.linear", 2 * 2 * 16, width)
    return out.tensors


def longcat():
    """A transformer of LongCat-Image's kind: Flux.1's layers without guidance and without a pooled prompt."""
    tensors = {name.replace("norm.scale", "norm.weight"): value for name, value in flux(context=3584).items()}
    return {name: value for name, value in tensors.items() if not name.startswith(("guidance_in", "vector_in"))}


def flux2_klein():
    """A transformer of Flux.2 Klein's kind: Flux.2 without guidance."""
    return {name: value for name, value in flux2().items() if not name.startswith("guidance_in")}


def flux2(width=128):
    """A transformer of Flux.2's kind: one modulation for all double blocks, one for all single ones, no biases."""
    context, _ = text_widths()
    out = Weights(bias=False)
    out.matrix("img_in", width, 128)
    out.matrix("txt_in", width, context)
    for name in ("time_in", "guidance_in"):
        out.matrix(f"{name}.in_layer", width, FREQUENCIES)
        out.matrix(f"{name}.out_layer", width, width)
    for name, rows in (("double_stream_modulation_img", 6), ("double_stream_modulation_txt", 6)):
        out.matrix(f"{name}.lin", rows * width, width)
    out.matrix("single_stream_modulation.lin", 3 * width, width)
    for side in ("img", "txt"):
        block = f"double_blocks.0.{side}"
        out.matrix(f"{block}_attn.qkv", 3 * width, width)
        out.ones(f"{block}_attn.norm.query_norm.scale", 128)
        out.ones(f"{block}_attn.norm.key_norm.scale", 128)
        out.matrix(f"{block}_attn.proj", width, width)
        out.matrix(f"{block}_mlp.0", 6 * width, width)
        out.matrix(f"{block}_mlp.2", width, 3 * width)
    out.matrix("single_blocks.0.linear1", 9 * width, width)
    out.matrix("single_blocks.0.linear2", width, 4 * width)
    out.ones("single_blocks.0.norm.query_norm.scale", 128)
    out.ones("single_blocks.0.norm.key_norm.scale", 128)
    out.matrix("final_layer.adaLN_modulation.1", 2 * width, width)
    out.matrix("final_layer.linear", 128, width)
    return out.tensors


def sd15():
    """A UNet of SD1.5's kind: three levels, one residual block each, attention at two. Stock widths are fixed."""
    return unet(context=768, mults=(1, 1, 1), depths=(0, 1, 1))


def sd21():
    """A UNet of SD2.1-base's kind: linear projections and a wider context."""
    return unet(context=1024, mults=(1, 1, 1), depths=(0, 1, 1), linear=True)


def sdxl():
    """A UNet of SDXL's kind, Segmind Vega's depths: three levels, no attention at the first, and a pooled prompt."""
    return unet(context=2048, mults=(1, 1, 1), depths=(0, 1, 2), linear=True, pooled=2816, blocks=2)


def unet(*, context, mults, depths, linear=False, pooled=None, blocks=1, width=320):
    """The official layout: an input block per residual block and downsampling, the middle, and the outputs."""
    out, skips, number = UNet(context, linear, width), [width], 1
    out.embeddings(pooled)
    out.conv("input_blocks.0.0", width, 4)
    channels = width
    for level, (mult, depth) in enumerate(zip(mults, depths, strict=True)):
        for _ in range(blocks):
            out.block(f"input_blocks.{number}", channels, width * mult, depth)
            channels, number = width * mult, number + 1
            skips.append(channels)
        if level < len(mults) - 1:
            out.conv(f"input_blocks.{number}.0.op", channels, channels)
            number += 1
            skips.append(channels)
    out.residual("middle_block.0", channels, channels)
    out.attention("middle_block.1", channels, max(depths[-1], 1))
    out.residual("middle_block.2", channels, channels)
    number = 0
    for level in reversed(range(len(mults))):
        for place in range(blocks + 1):
            out.block(f"output_blocks.{number}", channels + skips.pop(), width * mults[level], depths[level])
            channels = width * mults[level]
            if level and place == blocks:
                out.conv(f"output_blocks.{number}.{1 + bool(depths[level])}.conv", channels, channels)
            number += 1
    out.norm("out.0", channels)
    out.conv("out.2", 4, channels)
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


def conditioning(seed=0, tokens=8, widths=None):
    """A CONDITIONING of random text; widths of the context and the pooled output: the embedded pipeline's."""
    context, pooled = widths or text_widths()
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, context, generator=generator)
    return [[text, {"pooled_output": torch.randn(1, pooled, generator=generator)}]]


class Weights:
    """Random tensors by name, the same for one seed, on a device and in a precision."""

    def __init__(self, bias=True, device="cpu", dtype=torch.float32, seed=0):
        self.tensors, self.bias = {}, bias
        self.where = {"device": device, "dtype": dtype}
        self.generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, **self.where)

    def matrix(self, name, *shape):
        spread = 1 / math.sqrt(math.prod(shape[1:]))
        self.tensors[f"{name}.weight"] = spread * self.normal(*shape)
        if self.bias:
            self.tensors[f"{name}.bias"] = torch.zeros(shape[0], **self.where)

    def ones(self, name, size):
        self.tensors[name] = torch.ones(size, **self.where)


class UNet(Weights):
    """The parts of a UNet."""

    def __init__(self, context, linear, width):
        super().__init__()
        self.context, self.linear, self.width = context, linear, width

    def embeddings(self, pooled):
        for name, size in (("time_embed", self.width), ("label_emb.0", pooled)):
            if size:
                self.matrix(f"{name}.0", 4 * self.width, size)
                self.matrix(f"{name}.2", 4 * self.width, 4 * self.width)

    def conv(self, name, outputs, inputs, side=3):
        self.matrix(name, outputs, inputs, side, side)

    def norm(self, name, size):
        self.ones(f"{name}.weight", size)
        self.tensors[f"{name}.bias"] = torch.zeros(size)

    def block(self, name, inputs, outputs, depth):
        self.residual(f"{name}.0", inputs, outputs)
        if depth:
            self.attention(f"{name}.1", outputs, depth)

    def residual(self, name, inputs, outputs):
        self.norm(f"{name}.in_layers.0", inputs)
        self.conv(f"{name}.in_layers.2", outputs, inputs)
        self.matrix(f"{name}.emb_layers.1", outputs, 4 * self.width)
        self.norm(f"{name}.out_layers.0", outputs)
        self.conv(f"{name}.out_layers.3", outputs, outputs)
        if inputs != outputs:
            self.conv(f"{name}.skip_connection", outputs, inputs, 1)

    def attention(self, name, size, depth):
        self.norm(f"{name}.norm", size)
        for end in ("proj_in", "proj_out"):
            self.matrix(f"{name}.{end}", size, size, *(() if self.linear else (1, 1)))
        for number in range(depth):
            block = f"{name}.transformer_blocks.{number}"
            for attention, keys in (("attn1", size), ("attn2", self.context)):
                for part, inputs in (("to_q", size), ("to_k", keys), ("to_v", keys)):
                    self.matrix(f"{block}.{attention}.{part}", size, inputs)
                    del self.tensors[f"{block}.{attention}.{part}.bias"]
                self.matrix(f"{block}.{attention}.to_out.0", size, size)
            self.matrix(f"{block}.ff.net.0.proj", 8 * size, size)
            self.matrix(f"{block}.ff.net.2", size, 4 * size)
            for norm in ("norm1", "norm2", "norm3"):
                self.norm(f"{block}.{norm}", size)
