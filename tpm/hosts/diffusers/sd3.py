"""Per-pixel timesteps for diffusers' SD3 and SD3.5 transformer, by hooks alone: no weight and no method is replaced.

    with per_pixel(pipe.transformer) as network:
        network.timesteps = 1000 * sigma  # (B, 1, H, W)
        velocity = pipe.transformer(latent, timestep=..., ...)

A block modulates with one row of (shift, scale, gate) per image. Inside the context it is given neutral rows (0, 0, 1),
which are exact, and the rows of each token are applied where the block's parts give their results. The distinct
timesteps are embedded once and their rows gathered. Without a map, and after the context, nothing differs by a bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError
from ...pixelwise.timestep_rows import GridRows, Reading, TextTime, TimestepRows, fitted, modulate, text_time
from ...retiming.equations import Value
from .hooks import Attachments, is_hooked_by


@contextmanager
def per_pixel(transformer: nn.Module, text: TextTime = "mean", reading: Reading = "corner") -> Iterator[SD3Timesteps]:
    """An SD3Transformer2DModel that reads `network.timesteps` inside this context. Raises HostError for others.

    text: the timestep of the text stream. reading: how a patch reads its pixels, which should be equal inside it.
    """
    network = SD3Timesteps(transformer, text, reading)
    network.attach()
    try:
        yield network
    finally:
        network.detach()


class SD3Timesteps:
    """A transformer with per-pixel timesteps. Made by `per_pixel`."""

    def __init__(self, transformer: nn.Module, text: TextTime = "mean", reading: Reading = "corner") -> None:
        check_transformer(transformer)
        self.timesteps: Tensor | None = None  # (B, 1, H, W) in the transformer's unit, 0 … 1000; None: untouched
        self.background: Value | None = None  # the background's timestep, for text="background"
        self.tokens: GridRows | None = None  # rows of the call in progress
        self._transformer, self._text, self._reading = transformer, text, reading
        self._attached = Attachments()

    def attach(self) -> None:
        """Hook the transformer. Raises HostError when it already is hooked."""
        transformer: Any = self._transformer
        if is_per_pixel(transformer):
            raise HostError("This transformer already takes per-pixel timesteps; leave the outer context first.")
        self._attached.add(
            transformer.register_forward_pre_hook(self.before, with_kwargs=True),
            transformer.norm_out.register_forward_hook(self.after_norm_out),
        )
        for block in transformer.transformer_blocks:
            self._attached.add(*JointBlockHooks(self).attach(block))

    def detach(self) -> None:
        """Remove the hooks and forget the map."""
        self._attached.detach()
        self.timesteps = self.tokens = None

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """Embed the map for one call, and give the text stream its timestep."""
        self.tokens = None
        if self.timesteps is None:
            return None
        latent = args[0] if args else kwargs["hidden_states"]
        field = fitted(self.timesteps, latent)
        self.tokens = self._embedded(field, required(kwargs, "pooled_projections"))
        time = required(kwargs, "timestep")
        text = text_time(field, self._text, self.background)
        return args, {**kwargs, "timestep": text.to(time.dtype if time.is_floating_point() else text.dtype)}

    def _embedded(self, field: Tensor, pooled: Tensor) -> GridRows:
        """The rows of all distinct timesteps of a map (B, 1, H, W) for the pooled prompts (B, P)."""
        transformer: Any = self._transformer
        embedding = transformer.time_text_embed

        def embed(timesteps: Tensor) -> Tensor:
            embedded: Tensor = embedding.timestep_embedder(embedding.time_proj(timesteps).to(pooled.dtype))
            return embedded

        rows = TimestepRows(field, embed, self._reading)
        rows.add(embedding.text_embedder(pooled))
        return rows.at(transformer.config.patch_size)

    def after_norm_out(self, norm: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The last modulation: norm(x)·(1 + scale) + shift per token."""
        if self.tokens is None:
            return output
        scale, shift = norm.linear(norm.silu(self.tokens.rows).to(args[0].dtype)).chunk(2, dim=-1)
        return modulate(norm.norm(args[0]), shift, scale, self.tokens)


class JointBlockHooks:
    """The hooks of one JointTransformerBlock. The gates of a call are kept between its parts."""

    def __init__(self, network: SD3Timesteps) -> None:
        self._network = network
        self._rows: list[Tensor] = []  # shift, scale, gate of attention; of the MLP; of the second attention

    def attach(self, block: Any) -> list[Any]:
        """Hook a block's parts."""
        hooks = [
            block.norm1.register_forward_hook(self.after_norm1),
            block.attn.register_forward_hook(self.after_attention),
            block.norm2.register_forward_hook(self.after_norm2),
            block.ff.register_forward_hook(self.after_mlp),
        ]
        second = getattr(block, "attn2", None)
        return hooks if second is None else [*hooks, second.register_forward_hook(self.after_second_attention)]

    def after_norm1(self, norm: Any, args: tuple[Any, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Modulate per token; what the block applies itself becomes neutral."""
        tokens = self._network.tokens
        if tokens is None:
            return output
        second = len(output) == 7  # SD3.5: another attention on the same norm
        self._rows = list(norm.linear(norm.silu(tokens.rows)).chunk(9 if second else 6, dim=-1))
        x = norm.norm(args[0])
        one, zero = torch.ones_like(output[1]), torch.zeros_like(output[1])
        neutral = (modulate(x, self._rows[0], self._rows[1], tokens), one, zero, zero, one)
        return (*neutral, modulate(x, self._rows[6], self._rows[7], tokens), one) if second else neutral

    def after_attention(self, _: nn.Module, __: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Gate the image's half; the text keeps its own scalar gates."""
        return self._gated(output[0], 2), output[1]

    def after_second_attention(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        """Gate SD3.5's second attention."""
        return self._gated(output, 8)

    def after_norm2(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        """Modulate the MLP's input."""
        tokens = self._network.tokens
        return output if tokens is None else modulate(output, self._rows[3], self._rows[4], tokens)

    def after_mlp(self, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        """Gate the MLP."""
        return self._gated(output, 5)

    def _gated(self, x: Tensor, gate: int) -> Tensor:
        tokens = self._network.tokens
        return x if tokens is None else tokens.spread(self._rows[gate]) * x


def required(kwargs: dict[str, Any], name: str) -> Tensor:
    """A keyword argument of a call of the transformer. Raises HostError when it is not there."""
    value = kwargs.get(name)
    if not isinstance(value, Tensor):
        raise HostError(f"The transformer is called without {name}=…; use a stock SD3 pipeline.")
    return value


def check_transformer(transformer: Any) -> None:
    """Raise HostError unless this is diffusers' SD3 transformer, uncompiled and unchunked."""
    name = type(transformer).__name__
    if name != "SD3Transformer2DModel":
        raise HostError(
            f"Per-pixel timesteps are made for SD3 and SD3.5 (SD3Transformer2DModel, not compiled), not {name}."
        )
    if any(getattr(block, "_chunk_size", None) is not None for block in transformer.transformer_blocks):
        raise HostError("The transformer runs its feed-forward layers in chunks; call disable_forward_chunking().")


def is_per_pixel(transformer: nn.Module) -> bool:
    """Whether a `SD3Timesteps` hooks this transformer."""
    return is_hooked_by(transformer, SD3Timesteps)
