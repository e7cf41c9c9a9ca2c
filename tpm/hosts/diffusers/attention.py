"""What the prompt's phrases attend to: maps for `regions.from_attention` from a diffusers SD3 transformer or UNet.

    with captured(pipe, [tokens_of_cat, tokens_of_dog]) as capture:
        pipe("a cat and a dog")
    masks = from_attention(capture.maps, (0.5, 0.3), size)

SD3 and SD3.5: every joint attention's image queries against its text keys, softmax over the text tokens only. UNets:
every cross-attention whose queries are the latent's grid / 4. Conditional half only. Nothing of the run changes. A
whole run gives the paper's static maps, the mean over all steps; `take` after every step the dynamic ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError
from ...pixelwise.attention_maps import Items, MapMean, heads_first, text_maps
from ...pixelwise.errors import RegionError
from ...pixelwise.regions import Size
from ...pixelwise.timestep_rows import check_divisible
from .dialects import conditional_rows
from .hooks import Attachments, check_uncompiled
from .sd3 import check_transformer
from .unet import check_unet, is_unet

UNET_CELL = 4  # the layers that the paper reads: 16 × 16 queries for a latent of 64 × 64


def denoiser_of(pipe: Any) -> Any:
    """The transformer or UNet of a pipeline."""
    transformer = getattr(pipe, "transformer", None)
    return transformer if transformer is not None else getattr(pipe, "unet", None)


@contextmanager
def captured(pipe: Any, tokens: Items | Sequence[Items]) -> Iterator[AttentionCapture]:
    """Watch the attention of `pipe` inside this context.

    tokens: each item's positions in the context (`tokens.item_tokens`), the same for all images, or such a
    list for every image of the batch. Raises HostError for other denoisers, RegionError when a position is not in the
    text.
    """
    capture = AttentionCapture(pipe, tokens)
    capture.attach()
    try:
        yield capture
    finally:
        capture.detach()


class AttentionCapture:
    """The attention seen so far. Made by `captured`.

    Which rows of a call are the conditional ones depends on the number of images: a run says it (`images`), else the
    pipeline's guidance tells it.
    """

    def __init__(self, pipe: Any, tokens: Items | Sequence[Items]) -> None:
        self._pipe, self._denoiser = pipe, denoiser_of(pipe)
        self._layers, self._cell = layers_of(self._denoiser)
        self._tokens = for_every_image(tokens)
        self._seen = (
            MapMean()
        )  # over all rows of a call, or over the conditional ones where the number of images is known
        self.images: int | None = None  # images of the run in progress, known from its first step on
        self.latent: Size = (0, 0)  # (height, width) of the latest call's
        self._grid: Size = (0, 0)
        self._watched = False  # whether the call in progress counts
        self._attached = Attachments()

    @property
    def maps(self) -> Tensor:
        """(B, J, h, w) on the grid of queries, the mean over layers and calls. HostError when nothing ran."""
        maps = self._seen.mean
        if maps is None:
            raise HostError("No attention was seen yet: call the pipeline inside the context, then read the maps.")
        guided = getattr(self._pipe, "do_classifier_free_guidance", False)
        return conditional_rows(maps, self.images or len(maps) // (2 if guided else 1))

    def take(self) -> Tensor:
        """The maps since the last time, which are then forgotten."""
        maps = self.maps
        self._seen.clear()
        return maps

    def forget(self) -> None:
        """Another run begins: nothing of the one before counts, however it ended."""
        self._seen.clear()
        self.images = None

    def attach(self) -> None:
        """Start watching."""
        check_uncompiled(self._denoiser)
        self._attached.add(self._denoiser.register_forward_pre_hook(self.before_denoiser, with_kwargs=True))
        for layer in self._layers:
            self._attached.add(*LayerCapture(self, layer).attach())

    def detach(self) -> None:
        """Stop watching; the maps stay."""
        self._attached.detach()

    def before_denoiser(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the grid of a call. The extra call of skip-layer guidance does not count."""
        height, width = latent_of(args, kwargs).shape[-2:]
        check_divisible((height, width), self._cell)
        self.latent = (height, width)
        self._grid = (height // self._cell, width // self._cell)
        self._watched = kwargs.get("skip_layers") is None

    def add(self, query: Tensor, key: Tensor) -> None:
        """Take in one layer: image queries (n·B, heads, N, d), text keys (n·B, heads, T, d)."""
        if not self._watched or query.shape[2] != self._grid[0] * self._grid[1]:
            return
        if self.images is not None:
            query, key = conditional_rows(query, self.images), conditional_rows(key, self.images)
        self._seen.add(self._maps_of(query, key))

    def _maps_of(self, query: Tensor, key: Tensor) -> Tensor:
        """One layer's maps, each image with the tokens of its prompt; guidance repeats the images."""
        if len(self._tokens) == 1:
            return text_maps(query, key, self._tokens[0], self._grid)
        if len(query) % len(self._tokens):
            raise RegionError(f"There are tokens of {len(self._tokens)} prompts, but {len(query)} images.")
        rows = zip(query.split(1), key.split(1), cycle(self._tokens), strict=False)
        return torch.cat([text_maps(*row, self._grid) for row in rows])


@dataclass(frozen=True)
class Layer:
    """One attention, and the last modules that make its image queries and its text keys."""

    attention: Any
    query: nn.Module
    key: nn.Module


class LayerCapture:
    """Watches one attention: its queries and keys come before its result."""

    def __init__(self, capture: AttentionCapture, layer: Layer) -> None:
        self._capture, self._layer = capture, layer
        self._query: Tensor | None = None
        self._key: Tensor | None = None

    def attach(self) -> list[Any]:
        """Hook the three modules."""
        return [
            self._layer.query.register_forward_hook(self.after_query),
            self._layer.key.register_forward_hook(self.after_key),
            self._layer.attention.register_forward_hook(self.after_attention),
        ]

    def after_query(self, _: nn.Module, __: Any, output: Tensor) -> None:
        """Keep the image's queries."""
        self._query = self._heads(output)

    def after_key(self, _: nn.Module, __: Any, output: Tensor) -> None:
        """Keep the text's keys."""
        self._key = self._heads(output)

    def after_attention(self, _: nn.Module, __: Any, ___: Any) -> None:
        """Hand both over and forget them."""
        if self._query is not None and self._key is not None:
            self._capture.add(self._query.detach(), self._key.detach())
        self._query = self._key = None

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, heads · d) → (B, heads, N, d); normed ones are that already."""
        return x if x.ndim == 4 else heads_first(x, self._layer.attention.heads)


def layers_of(denoiser: Any) -> tuple[list[Layer], int]:
    """The attentions over text of a denoiser, and how many latent pixels wide one query of theirs is."""
    if is_unet(denoiser):
        check_unet(denoiser)
        layers = [cross_attention(block.attn2) for block in denoiser.modules() if is_text_block(block)]
        return layers, UNET_CELL
    check_transformer(denoiser)
    return [joint_attention(block.attn) for block in denoiser.transformer_blocks], denoiser.config.patch_size


def is_text_block(module: nn.Module) -> bool:
    """Whether this is a UNet's transformer block with a cross-attention."""
    return type(module).__name__ == "BasicTransformerBlock" and getattr(module, "attn2", None) is not None


def cross_attention(attention: Any) -> Layer:
    """A UNet's attn2. Raises HostError when its projections are fused."""
    check_unfused(attention)
    return Layer(attention, attention.to_q, attention.to_k)


def joint_attention(attention: Any) -> Layer:
    """The attention of a JointTransformerBlock. Raises HostError when its projections are fused."""
    check_unfused(attention)
    query = attention.to_q if attention.norm_q is None else attention.norm_q
    key = attention.add_k_proj if attention.norm_added_k is None else attention.norm_added_k
    return Layer(attention, query, key)


def check_unfused(attention: Any) -> None:
    """Raise HostError when queries and keys are made in one matrix, where they cannot be seen apart."""
    if getattr(attention, "fused_projections", False):
        raise HostError("This denoiser's attention projections are fused; call unfuse_qkv_projections() first.")


def latent_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The latent (B, C, H, W) of a denoiser's call: SD3's hidden_states, a UNet's sample."""
    latent: Tensor = args[0] if args else kwargs["hidden_states" if "hidden_states" in kwargs else "sample"]
    return latent


def for_every_image(tokens: Items | Sequence[Items]) -> Sequence[Items]:
    """One list of items for each prompt; a single one stands for all images."""
    nested: Any = tokens
    shared = bool(nested) and bool(nested[0]) and isinstance(nested[0][0], int)
    return [nested] if shared or not nested or not nested[0] else nested
