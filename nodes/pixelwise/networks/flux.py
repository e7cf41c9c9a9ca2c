"""Flux.1's and Flux.2's transformer in its official layout: modulations that hold one row per token.

Flux.1 modulates in every block, Flux.2 once for all blocks of a kind. In the single-stream blocks the text tokens come
first and keep one timestep. Attention is watched in the double-stream blocks.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....tpm.pixelwise.attention_maps import split_text
from ....tpm.pixelwise.regions import Size
from ....tpm.pixelwise.timestep_rows import Embed, sinusoid
from .base import Current, Function, LayeredNetwork

FREQUENCIES = 256  # features of a timestep
TIME_SCALE = 1000.0  # the network's unit is σ


class PixelwiseFlux(LayeredNetwork):
    """Flux.1, Flux.2 and LongCat-Image under a map. A timestep is σ."""

    span = 1.0
    time = "time_in"
    additions = ("guidance_in", "vector_in")

    def __init__(self, network: Any, *args: Any) -> None:
        super().__init__(network, *args)
        self.unit = self.patch = network.patch_size
        self._global = bool(network.params.global_modulation)
        self._text_tokens = 0

    def embedding(self, original: Function, *args: Any) -> Embed:
        return lambda values: original(sinusoid(values, FREQUENCIES, TIME_SCALE).to(args[0].dtype))

    def attention_grid(self, size: Size) -> Size:
        return size[0] // self.patch, size[1] // self.patch

    def layers(self, current: Current) -> dict[str, partial[Any]]:
        network = self.network
        made: dict[str, Function] = {"txt_in": self._text_in}
        if self._global:
            made |= {"double_stream_modulation_img": self._image_rows, "single_stream_modulation": self._all_rows}
        else:
            made |= {f"double_blocks.{n}.img_mod": self._image_rows for n in range(len(network.double_blocks))}
            made |= {f"single_blocks.{n}.modulation": self._all_rows for n in range(len(network.single_blocks))}
        made["final_layer"] = partial(self.final, network.final_layer)
        return {f"{name}.forward": partial(each, current(f"{name}.forward")) for name, each in made.items()}

    def attention(self, inner: Function, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        """An attention function `inner` of this network, watched: (B, heads, text + image, d), text first."""
        watch, options = self.watch, kwargs.get("transformer_options") or {}
        if watch is not None and options.get("block_type") == "double" and query.ndim == 4:
            watch.add(*split_text(query, key, self._text_tokens), padded_left=self._global)  # Flux.2 pads its text
        return inner(query, key, *args, **kwargs)

    def _text_in(self, original: Function, text: Tensor) -> Tensor:
        """Note how many tokens the text has."""
        self._text_tokens = text.shape[1]
        return original(text)

    def _image_rows(self, original: Function, vec: Tensor) -> Any:
        """Both modulations of the image stream, one row per token."""
        tokens = self.tokens
        if tokens is None:
            return original(vec)
        return tuple(spread(modulation, tokens.spread) for modulation in original(tokens.rows))

    def _all_rows(self, original: Function, vec: Tensor) -> Any:
        """The modulation of text and image together: the text's row, then one per image token."""
        tokens = self.tokens
        if tokens is None:
            return original(vec)
        (text, _), (image, rest) = original(vec), original(tokens.rows)
        count = tokens.index.shape[1]

        def joined(words: Tensor, pixels: Tensor) -> Tensor:
            pixels = tokens.spread(pixels).expand(-1, count, -1)
            return torch.cat([words.expand(-1, self._text_tokens, -1), pixels], dim=1)

        parts = {name: joined(getattr(text, name), getattr(image, name)) for name in ("shift", "scale", "gate")}
        return replace(image, **parts), rest


def spread(modulation: Any, gather: Function) -> Any:
    """A modulation (shift, scale, gate) with each of its rows gathered; None stays None."""
    if modulation is None:
        return None
    return replace(modulation, **{name: gather(getattr(modulation, name)) for name in ("shift", "scale", "gate")})
