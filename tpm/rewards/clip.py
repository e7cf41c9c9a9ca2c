"""What HPSv2, CLIP Score and PickScore share: a CLIP with two towers, built on transformers' own `CLIPModel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import RewardError
from .pictures import SIDE, Prepare
from .weights import fill, renamed
from .words import CLIP_LENGTH, ClipTokens

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import CLIPModel


@dataclass(frozen=True)
class Tower:
    """A transformer: width, width of its MLP, layers, heads."""

    width: int
    mlp: int
    layers: int
    heads: int

    def config(self) -> dict[str, int]:
        """The names that transformers uses."""
        return {
            "hidden_size": self.width,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
        }

    def alike(self, other: Tower) -> bool:
        """Whether this is a larger or smaller ``other``: heads and MLP in the same proportion to the width."""
        return all(
            one * other.width == its * self.width for one, its in ((self.heads, other.heads), (self.mlp, other.mlp))
        )


def tower_of(tensors: Mapping[str, Tensor], prefix: str, matrix: str, official: Tower) -> Tower | None:
    """The tower whose blocks are under ``prefix``, with heads as wide as those of ``official``.

    ``matrix`` (mlp, width) is the name in a block of the MLP's first. None where the first block lacks it.
    """
    first = tensors.get(f"{prefix}0.{matrix}")
    if first is None or first.ndim != 2:
        return None
    numbers = (name[len(prefix) :].split(".", 1)[0] for name in tensors if name.startswith(prefix))
    layers = 1 + max(int(number) for number in numbers if number.isdecimal())
    mlp, width = first.shape
    return Tower(width, mlp, layers, width * official.heads // official.width)


def check_proportions(found: tuple[Tower, Tower], official: tuple[Tower, Tower], where: str) -> None:
    """Raise RewardError unless the towers are those of ``official``, or all smaller or larger in the same way."""
    same_depth = found[0].layers * official[1].layers == found[1].layers * official[0].layers
    if not same_depth or not all(one.alike(other) for one, other in zip(found, official, strict=True)):
        these, those = (
            " and ".join(f"{tower.layers} layers of {tower.width}" for tower in pair) for pair in (found, official)
        )
        raise RewardError(f"{where} is another model ({these} instead of {those}); give that metric's own file.")


@dataclass(frozen=True)
class Clip:
    """Everything that decides how a CLIP computes."""

    text: Tower
    vision: Tower
    projection: int
    activation: str
    vocabulary: int = 49408
    image: int = SIDE
    patch: int = 14
    epsilon: float = 1e-5


VIT_H_14 = Clip(Tower(1024, 4096, 24, 16), Tower(1280, 5120, 32, 16), projection=1024, activation="gelu")
VIT_L_14 = Clip(Tower(768, 3072, 12, 12), Tower(1024, 4096, 24, 16), projection=768, activation="quick_gelu")
"""In an open_clip file the same activation holds in both towers; OpenAI's models alone use ``quick_gelu``."""

_MLP, _PROJECTION = "mlp.fc1.weight", "text_projection.weight"
_TOKENS = "text_model.embeddings.token_embedding.weight"
_OPEN_CLIP_BLOCK = {
    "transformer.resblocks.": "encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
    ".c_fc.": ".fc1.",
    ".c_proj.": ".fc2.",
}
_OPEN_CLIP_TEXT = _OPEN_CLIP_BLOCK | {
    "token_embedding.": "embeddings.token_embedding.",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.": "final_layer_norm.",
}
_OPEN_CLIP_VISION = _OPEN_CLIP_BLOCK | {
    "class_embedding": "embeddings.class_embedding",
    "conv1.": "embeddings.patch_embedding.",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.": "pre_layrnorm.",
    "ln_post.": "post_layernorm.",
}


def sized(tensors: Mapping[str, Tensor], official: Clip, where: str) -> Clip:
    """``official`` with the widths and depths of ``tensors`` (Hugging Face names).

    Heads keep the official width. Towers of other proportions are another model's, and raise RewardError; what the
    tensors do not tell stays official, so that `fill` names what is missing.
    """
    text = tower_of(tensors, "text_model.encoder.layers.", _MLP, official.text)
    vision = tower_of(tensors, "vision_model.encoder.layers.", _MLP, official.vision)
    if text is None or vision is None or {_PROJECTION, _TOKENS} - tensors.keys():
        return official
    check_proportions((vision, text), (official.vision, official.text), where)
    projection, vocabulary = len(tensors[_PROJECTION]), len(tensors[_TOKENS])
    return replace(official, text=text, vision=vision, projection=projection, vocabulary=vocabulary)


class ClipMetric:
    """Cosine between pictures and their prompts, times exp(logit_scale) where the metric is ``scaled``."""

    def __init__(self, module: CLIPModel, tokens: ClipTokens, prepare: Prepare, *, scaled: bool = False) -> None:
        self.module = module
        self._tokens, self._prepare, self._scaled = tokens, prepare, scaled
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def score(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Raw scores (n,), float32. A prompt's text is embedded once in the life of this object."""
        images, texts = self.embed_pictures(pictures), self.embed_prompts(prompts)
        cosine = (images * texts).sum(-1)
        return cosine * self.module.logit_scale.exp().cpu() if self._scaled else cosine

    def embed_pictures(self, pictures: Sequence[Image]) -> Tensor:
        """Unit vectors (n, projection), float32 on the CPU."""
        pixels = torch.stack([self._prepare(picture) for picture in pictures]).to(self.module.device)
        return _unit(self.module.get_image_features(pixel_values=pixels))

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors (n, projection), float32 on the CPU."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            tokens = torch.tensor([self._tokens(prompt) for prompt in new], device=self.module.device)
            self._known.update(zip(new, _unit(self.module.get_text_features(input_ids=tokens)), strict=True))
        return torch.stack([self._known[prompt] for prompt in prompts])


def load_clip(
    tensors: Mapping[str, Tensor], shape: Clip, tokens: ClipTokens, dtype: torch.dtype, where: str
) -> CLIPModel:
    """A `CLIPModel` of ``shape`` with ``tensors`` in Hugging Face names. Raises RewardError where they do not fit."""
    from transformers import CLIPConfig, CLIPModel

    if tokens.size > shape.vocabulary:
        raise RewardError(
            f"The vocabulary has {tokens.size} tokens, the model {shape.vocabulary}; use the model's own."
        )
    config = CLIPConfig(**configuration(shape, tokens.end))
    return fill(lambda: CLIPModel(config), tensors, dtype, where)


def configuration(shape: Clip, end: int) -> dict[str, Any]:
    """The arguments of transformers' `CLIPConfig`; ``end`` is the token whose state is the text's."""
    both = {"hidden_act": shape.activation, "layer_norm_eps": shape.epsilon, "projection_dim": shape.projection}
    marks = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": 0}
    text = {"vocab_size": shape.vocabulary, "max_position_embeddings": CLIP_LENGTH, **marks}
    vision = {"image_size": shape.image, "patch_size": shape.patch}
    return {
        "text_config": {**shape.text.config(), **both, **text},
        "vision_config": {**shape.vision.config(), **both, **vision},
        "projection_dim": shape.projection,
    }


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's names to transformers': renamed, query, key and value split, projections transposed.

    The projections remain views of what the file holds: see `summed_as_openai`.
    """
    text = {name: value for name, value in tensors.items() if not name.startswith("visual.")}
    converted = {f"text_model.{name}": value for name, value in renamed(text, "", _OPEN_CLIP_TEXT).items()}
    vision = renamed(tensors, "visual.", _OPEN_CLIP_VISION)
    converted |= {f"vision_model.{name}": value for name, value in vision.items()}
    for old, new in (("text_model.text_projection", "text"), ("vision_model.proj", "visual")):
        if old in converted:
            converted[f"{new}_projection.weight"] = converted.pop(old).T
    if "text_model.logit_scale" in converted:
        converted["logit_scale"] = converted.pop("text_model.logit_scale")
    return _split_attention(converted)


def summed_as_openai(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values, with the two projections in memory as OpenAI's code holds them, input by output.

    A product with one row is summed in the order of memory, so that only then its last bit is the reference's too.
    """
    turned = {
        name: value.T.contiguous().T
        for name, value in tensors.items()
        if name in ("text_projection.weight", "visual_projection.weight") and value.ndim == 2
    }
    return {**tensors, **turned}


def _split_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        stem, joined, kind = name.partition(".attn.in_proj_")
        if joined:
            parts = zip("qkv", value.chunk(3), strict=True)
            result |= {f"{stem}.self_attn.{letter}_proj.{kind}": part for letter, part in parts}
        else:
            result[name] = value
    return result


def _unit(features: Any) -> Tensor:
    """Normalised in float32. transformers 5 returns an object, 4 the tensor itself."""
    tensor = features if isinstance(features, Tensor) else features.pooler_output
    return F.normalize(tensor.float(), dim=-1).cpu()
