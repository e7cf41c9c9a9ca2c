"""SD3's and SD3.5's MMDiT in its official layout: image blocks modulate per token, text blocks keep one timestep."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....tpm.pixelwise.attention_maps import heads_first
from ....tpm.pixelwise.regions import Size
from ....tpm.pixelwise.timestep_rows import Embed, modulate
from ...weak import weakly
from .base import Current, Function, LayeredNetwork

Gates = tuple[Tensor, ...]


class PixelwiseMMDiT(LayeredNetwork):
    """SD3 and SD3.5 under a map. A timestep is 1000·σ."""

    time = "t_embedder"
    additions = ("y_embedder",)

    def __init__(self, network: Any, *args: Any) -> None:
        super().__init__(network, *args)
        self.unit = self.patch = network.patch_size

    def embedding(self, original: Function, *args: Any) -> Embed:
        return lambda values: original(values, *args[1:])

    def attention_grid(self, size: Size) -> Size:
        return size[0] // self.patch, size[1] // self.patch

    def layers(self, current: Current) -> dict[str, partial[Any]]:
        found: dict[str, partial[Any]] = {}
        for number, block in enumerate(self.network.joint_blocks):
            found |= JointBlock(self, block).patches(f"joint_blocks.{number}", current)
        path = "final_layer.forward"
        return found | {path: partial(self.final, self.network.final_layer, current(path))}


class JointBlock:
    """One joint block. Its image half runs with rows in place of (shift, scale, gate); its keys are kept for a moment.

    Both attentions of SD3.5-medium's dual blocks are modulated; the one with the text is the one that is watched.
    """

    def __init__(self, network: PixelwiseMMDiT, block: Any) -> None:
        self._network, self._held = network, weakly(block.x_block)

    @property
    def _image(self) -> Any:
        """The block's image half, which holds the stand-ins and therefore is held weakly."""
        return self._held()

    def patches(self, prefix: str, current: Current) -> dict[str, partial[Any]]:
        """The stand-ins of this block."""
        stand_ins: dict[str, Function] = {"context_block.pre_attention": self.text}
        if self._image.x_block_self_attn:
            stand_ins |= {"x_block.pre_attention_x": self.before_two, "x_block.post_attention_x": self.after_two}
        else:
            stand_ins |= {"x_block.pre_attention": self.before, "x_block.post_attention": self.after}
        return {f"{prefix}.{name}": partial(made, current(f"{prefix}.{name}")) for name, made in stand_ins.items()}

    def text(self, original: Function, context: Tensor, c: Tensor) -> Any:
        """Keep the text's keys; they come before the image's queries."""
        result = original(context, c)
        if self._network.watch is not None:
            self._network.keep(self, result[0][1])
        return result

    def before(self, original: Function, x: Tensor, c: Tensor) -> Any:
        """The image's q, k, v, and the rows of what follows."""
        tokens, image = self._network.tokens, self._image
        if tokens is None:
            return self._watched(original(x, c))
        shift, scale, *rest = image.adaLN_modulation(tokens.rows).chunk(6, dim=-1)
        qkv = image.attn.pre_attention(modulate(image.norm1(x), shift, scale, tokens))
        return self._watched((qkv, (x, *rest)))

    def after(self, original: Function, attention: Tensor, x: Tensor, *rows: Tensor) -> Tensor:
        """Gate the attention and the MLP."""
        tokens = self._network.tokens
        if tokens is None:
            return original(attention, x, *rows)
        x = x + tokens.spread(rows[0]) * self._image.attn.post_attention(attention)
        return self._fed_forward(x, rows[1:])

    def before_two(self, original: Function, x: Tensor, c: Tensor) -> Any:
        """The same for a block with a second attention."""
        tokens, image = self._network.tokens, self._image
        if tokens is None:
            return self._watched(original(x, c))
        rows = image.adaLN_modulation(tokens.rows).chunk(9, dim=-1)
        normed = image.norm1(x)
        first = image.attn.pre_attention(modulate(normed, rows[0], rows[1], tokens))
        second = image.attn2.pre_attention(modulate(normed, rows[6], rows[7], tokens))
        return self._watched((first, second, (x, *rows[2:6], rows[8])))

    def after_two(self, original: Function, first: Tensor, second: Tensor, x: Tensor, *rows: Tensor) -> Tensor:
        """Gate both attentions and the MLP."""
        tokens, image = self._network.tokens, self._image
        if tokens is None:
            return original(first, second, x, *rows)
        gated = tokens.spread(rows[0]) * image.attn.post_attention(first)
        also = tokens.spread(rows[4]) * image.attn2.post_attention(second)
        return self._fed_forward(torch.stack([x, gated, also], dim=0).sum(dim=0), rows[1:4])

    def _fed_forward(self, x: Tensor, rows: Gates) -> Tensor:
        """Adds gate·MLP(norm(x)·(1 + scale) + shift) for (shift, scale, gate)."""
        tokens, image = self._network.tokens, self._image
        assert tokens is not None
        return x + tokens.spread(rows[2]) * image.mlp(modulate(image.norm2(x), rows[0], rows[1], tokens))

    def _watched(self, result: Any) -> Any:
        """Hand the image's queries and the text's keys to the watch, where there is one."""
        watch, key = self._network.watch, self._network.kept(self)
        if watch is not None and key is not None:
            heads = self._image.attn.num_heads
            watch.add(heads_first(result[0][0], heads), heads_first(key, heads))
        return result
