"""The UNet of SD1.5, SD2.1 and SDXL in its official layout: every residual block reads the map on its own grid."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ....tpm.errors import HostError
from ....tpm.pixelwise.attention_maps import heads_first
from ....tpm.pixelwise.regions import Size
from ....tpm.pixelwise.timestep_rows import Embed, sinusoid
from .base import Current, Function, LayeredNetwork

WATCHED = 4  # the paper's cross-attentions: those whose queries are a grid 4 times smaller than the latent


class PixelwiseUNet(LayeredNetwork):
    """SD1.5, SD2.1 and SDXL under a map. A timestep is an index of the training schedule."""

    patch = 1
    time = "time_embed"
    additions = ("label_emb",)

    def __init__(self, network: Any, *args: Any) -> None:
        super().__init__(network, *args)
        if any(type(module).__name__ == "VideoResBlock" for module in network.modules()):
            raise HostError(
                "The UNets of Stable Video Diffusion and SV3D have layers over time, which take one timestep for a"
                " whole frame: they cannot be pixel-wise. Use Wan or LTX for videos, or a UNet of SD1.5, SD2.1 or SDXL."
            )
        self.unit = 2 ** sum(type(module).__name__ == "Downsample" for module in network.modules())
        self._side = 1  # H of the layer in progress
        self._blocks = [name for name, m in network.named_modules() if type(m).__name__ == "ResBlock"]

    def embedding(self, original: Function, *args: Any) -> Embed:
        width = self.network.model_channels
        return lambda values: original(sinusoid(values, width).to(args[0].dtype))

    def attention_grid(self, size: Size) -> Size:
        return size[0] // WATCHED, size[1] // WATCHED

    def layers(self, current: Current) -> dict[str, partial[Any]]:
        stand_ins: dict[str, Function] = {"forward": self._block, "emb_layers.forward": self._embedding}
        return {
            f"{name}.{part}": partial(made, current(f"{name}.{part}"))
            for name in self._blocks
            for part, made in stand_ins.items()
        }

    def watched(
        self, n: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A cross-attention's input on its way, the host's `attn2` patch: n (B, h·w, C), context (B, T, D)."""
        height, width = extra["original_shape"][-2:]
        if self.watch is not None and n.shape[1] == (height // WATCHED) * (width // WATCHED):
            attention = self._cross_attention(extra["block"], extra["block_index"])
            query, key = attention.to_q(n), attention.to_k(context)
            self.watch.add(heads_first(query, attention.heads), heads_first(key, attention.heads))
        return n, context, value

    def _cross_attention(self, block: tuple[str, int], index: int) -> Any:
        """The module of a place that the host names: ("input" | "middle" | "output", number), index."""
        part, number = block
        layers = self.network.middle_block if part == "middle" else getattr(self.network, f"{part}_blocks")[number]
        transformer = next(layer for layer in layers if hasattr(layer, "transformer_blocks"))
        return transformer.transformer_blocks[index].attn2

    def _block(self, original: Function, x: Tensor, emb: Tensor) -> Tensor:
        """Note the grid of a residual block."""
        self._side = x.shape[-2]
        return original(x, emb)

    def _embedding(self, original: Function, emb: Tensor) -> Tensor:
        """What a residual block adds: (B, C), or (B, C, h, w) under a map."""
        if self.rows is None:
            return original(emb)
        tokens = self.rows.at(self.rows.height // self._side)
        return tokens.as_image(original(tokens.rows), self._side)
