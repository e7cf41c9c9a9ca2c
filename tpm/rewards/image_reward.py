"""ImageReward (Xu et al., 2023): a BLIP whose text encoder looks at the picture, and an MLP on its first token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .base import RewardError
from .catalogue import BERT_WORDS, CATALOGUE
from .clip import Tower, check_proportions, tower_of
from .pictures import SIDE, crop_torchvision
from .weights import fill, read_weights, renamed
from .words import BertTokens

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCE = CATALOGUE["image-reward"].source
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""The MLP's mean and standard deviation over the authors' data, which standardise the published score."""

_WORDS = "text.embeddings.word_embeddings.weight"
_HEAD = tuple(f"head.{number}.weight" for number in (0, 2, 4, 6, 7))
_VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "blocks.": "encoder.layers.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
}


@dataclass(frozen=True)
class Blip:
    """Everything that decides how ImageReward computes."""

    vision: Tower
    text: Tower
    head: tuple[int, ...] = (1024, 128, 64, 16, 1)
    vocabulary: int = 30524
    positions: int = 512
    image: int = SIDE
    patch: int = 16
    vision_epsilon: float = 1e-6
    text_epsilon: float = 1e-12


VIT_L_BERT = Blip(vision=Tower(1024, 4096, 24, 16), text=Tower(768, 3072, 12, 12))


class ImageRewardNet(nn.Module):
    """Vision tower, text tower with cross-attention, and a linear head without activations."""

    def __init__(self, shape: Blip) -> None:
        from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        super().__init__()
        vision, text = configurations(shape)
        self.vision = BlipVisionModel(BlipVisionConfig(**vision))
        self.text = BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False)
        self.head = _head(shape)  # in float32 at least, whatever the towers are in

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Standardised rewards (n,) in the head's precision, of pixels (n, 3, side, side), tokens and mask (n, 35)."""
        seen = self.vision(pixel_values=pixels).last_hidden_state  # not pooler_output, which is normalised twice
        read = self.text(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
            is_decoder=False,
        )
        first = read.last_hidden_state[:, 0].to(self.head[0].weight.dtype)
        return (self.head(first)[:, 0] - MEAN) / STD


class ImageReward:
    """The metric."""

    def __init__(self, module: ImageRewardNet, tokens: BertTokens) -> None:
        self.module = module
        self._tokens = tokens

    @torch.no_grad()
    def score(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Raw scores (n,), float32, about standard normal over the authors' data."""
        device = next(self.module.parameters()).device
        pixels = torch.stack([crop_torchvision(picture) for picture in pictures]).to(device)
        tokens = torch.tensor([self._tokens(prompt) for prompt in prompts], device=device)
        return self.module(pixels, tokens, (tokens != self._tokens.pad).long()).cpu()


def load(file: Path, vocabulary: Path, dtype: torch.dtype = torch.float32, shape: Blip | None = None) -> ImageReward:
    """The metric from ``ImageReward.pt`` (or safetensors of the same names) and the folder of BERT's ``vocab.txt``."""
    tensors = from_official(read_weights(file, SOURCE))
    shape = shape or sized(tensors, str(file))
    tokens = BertTokens(vocabulary / BERT_WORDS[0])
    if tokens.size > shape.vocabulary:
        raise RewardError(
            f"The vocabulary has {tokens.size} tokens, the model {shape.vocabulary}; use bert-base-uncased."
        )
    module = fill(lambda: ImageRewardNet(shape), tensors, dtype, str(file))
    module.head.float()
    return ImageReward(module, tokens)


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official names to those of `ImageRewardNet`; what scoring does not use is left out."""
    vision = renamed(tensors, "blip.visual_encoder.", _VISION)
    vision |= {f"post_layernorm{name[4:]}": value for name, value in vision.items() if name.startswith("norm.")}
    text = renamed(tensors, "blip.text_encoder.", {})
    head = renamed(tensors, "mlp.layers.", {})
    parts = {"vision": vision, "text": text, "head": head}
    return {f"{part}.{name}": value for part, named in parts.items() for name, value in named.items()}


def sized(tensors: Mapping[str, Tensor], where: str) -> Blip:
    """The official shape with the widths and depths of ``tensors`` (`from_official`'s names); see `clip.sized`."""
    official = VIT_L_BERT
    vision = tower_of(tensors, "vision.encoder.layers.", "mlp.fc1.weight", official.vision)
    text = tower_of(tensors, "text.encoder.layer.", "intermediate.dense.weight", official.text)
    if vision is None or text is None or {_WORDS, *_HEAD} - tensors.keys():
        return official
    check_proportions((vision, text), (official.vision, official.text), where)
    head = tuple(len(tensors[name]) for name in _HEAD)
    return replace(official, vision=vision, text=text, head=head, vocabulary=len(tensors[_WORDS]))


def configurations(shape: Blip) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of transformers' `BlipVisionConfig` and `BlipTextConfig`."""
    plain: dict[str, Any] = {"hidden_act": "gelu"}
    vision: dict[str, Any] = {**plain, **shape.vision.config(), "image_size": shape.image, "patch_size": shape.patch}
    text: dict[str, Any] = {
        **plain,
        **shape.text.config(),
        "encoder_hidden_size": shape.vision.width,
        "vocab_size": shape.vocabulary,
        **dict.fromkeys(("bos_token_id", "sep_token_id"), None),  # for generating text, which nobody does here
        "max_position_embeddings": shape.positions,
        "is_decoder": True,  # builds the cross-attention
        "layer_norm_eps": shape.text_epsilon,
        "pad_token_id": 0,
    }
    vision["layer_norm_eps"] = shape.vision_epsilon
    return vision, text


def _head(shape: Blip) -> nn.Sequential:
    """The five linear layers, with the (idle) dropouts between them that number the official weights."""
    widths = (shape.text.width, *shape.head)
    linear = [nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths)]
    first, second, third, *rest = linear
    return nn.Sequential(first, nn.Identity(), second, nn.Identity(), third, nn.Identity(), *rest)
