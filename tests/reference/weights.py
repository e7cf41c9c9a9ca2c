"""Random weights in the layouts of the official files, of any size; the same every time."""

import math
from itertools import pairwise

import torch

from asyncdiff.tpm.rewards.clip import from_open_clip


class Draw:
    """Random weights by name, the same every time."""

    def __init__(self, seed):
        self.generator, self.tensors = torch.Generator().manual_seed(seed), {}

    def normal(self, name, *shape, std):
        self.tensors[name] = torch.randn(*shape, generator=self.generator) * std

    def linear(self, name, n_out, n_in, joint="."):
        self.normal(f"{name}{joint}weight", n_out, n_in, std=1.5 / math.sqrt(n_in))
        self.normal(f"{name}{joint}bias", n_out, std=0.1)

    def norm(self, name, width):
        self.normal(f"{name}.weight", width, std=0.2)
        self.tensors[f"{name}.weight"] += 1
        self.normal(f"{name}.bias", width, std=0.1)


def hugging_face(shape):
    """The same weights in the layout of transformers, as a file holds them."""
    return {name: value.contiguous() for name, value in from_open_clip(open_clip_weights(shape)).items()}


def open_clip_weights(shape, seed=0):
    draw = Draw(seed)
    for prefix, tower in (("visual.", shape.vision), ("", shape.text)):
        for number in range(tower.layers):
            block = f"{prefix}transformer.resblocks.{number}."
            draw.linear(f"{block}attn.in_proj", 3 * tower.width, tower.width, joint="_")
            draw.linear(f"{block}attn.out_proj", tower.width, tower.width)
            draw.linear(f"{block}mlp.c_fc", tower.mlp, tower.width)
            draw.linear(f"{block}mlp.c_proj", tower.width, tower.mlp)
            draw.norm(f"{block}ln_1", tower.width)
            draw.norm(f"{block}ln_2", tower.width)
    wide, narrow = shape.vision.width, shape.text.width
    draw.normal("visual.class_embedding", wide, std=0.02)
    draw.normal("visual.conv1.weight", wide, 3, shape.patch, shape.patch, std=0.02 / shape.patch)
    draw.normal("visual.positional_embedding", (shape.image // shape.patch) ** 2 + 1, wide, std=0.02)
    draw.normal("visual.proj", wide, shape.projection, std=0.2)
    draw.normal("token_embedding.weight", shape.vocabulary, narrow, std=0.02)
    draw.normal("positional_embedding", 77, narrow, std=0.02)
    draw.normal("text_projection", narrow, shape.projection, std=0.2)
    for name, width in (("visual.ln_pre", wide), ("visual.ln_post", wide), ("ln_final", narrow)):
        draw.norm(name, width)
    return draw.tensors | {"logit_scale": torch.tensor(3.1)}


def official_blip_weights(shape, seed=0):
    draw = Draw(seed)
    eyes, text = "blip.visual_encoder.", "blip.text_encoder."
    wide, narrow = shape.vision.width, shape.text.width
    for number in range(shape.vision.layers):
        block = f"{eyes}blocks.{number}."
        draw.linear(f"{block}attn.qkv", 3 * wide, wide)
        draw.linear(f"{block}attn.proj", wide, wide)
        draw.linear(f"{block}mlp.fc1", shape.vision.mlp, wide)
        draw.linear(f"{block}mlp.fc2", wide, shape.vision.mlp)
        draw.norm(f"{block}norm1", wide)
        draw.norm(f"{block}norm2", wide)
    for number in range(shape.text.layers):
        layer = f"{text}encoder.layer.{number}."
        for kind, width in (("attention", narrow), ("crossattention", wide)):
            draw.linear(f"{layer}{kind}.self.query", narrow, narrow)
            draw.linear(f"{layer}{kind}.self.key", narrow, width)
            draw.linear(f"{layer}{kind}.self.value", narrow, width)
            draw.linear(f"{layer}{kind}.output.dense", narrow, narrow)
            draw.norm(f"{layer}{kind}.output.LayerNorm", narrow)
        draw.linear(f"{layer}intermediate.dense", shape.text.mlp, narrow)
        draw.linear(f"{layer}output.dense", narrow, shape.text.mlp)
        draw.norm(f"{layer}output.LayerNorm", narrow)
    draw.normal(f"{eyes}cls_token", 1, 1, wide, std=0.02)
    draw.normal(f"{eyes}pos_embed", 1, (shape.image // shape.patch) ** 2 + 1, wide, std=0.02)
    draw.normal(f"{eyes}patch_embed.proj.weight", wide, 3, shape.patch, shape.patch, std=0.02 / shape.patch)
    draw.normal(f"{eyes}patch_embed.proj.bias", wide, std=0.01)
    draw.norm(f"{eyes}norm", wide)
    draw.normal(f"{text}embeddings.word_embeddings.weight", shape.vocabulary, narrow, std=0.1)
    draw.normal(f"{text}embeddings.position_embeddings.weight", shape.positions, narrow, std=0.1)
    draw.norm(f"{text}embeddings.LayerNorm", narrow)
    widths = (narrow, *shape.head)
    for number, (n_in, n_out) in zip((0, 2, 4, 6, 7), pairwise(widths), strict=True):
        draw.linear(f"mlp.layers.{number}", n_out, n_in)
    draw.normal("blip.vision_proj.weight", 256, wide, std=1)  # the official file holds what scoring does not use
    return draw.tensors | {f"{text}embeddings.position_ids": torch.arange(shape.positions)[None]}
