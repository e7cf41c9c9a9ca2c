"""What the prompt's phrases attend to: maps for `regions.from_attention` from diffusers' SD3 and SD3.5 transformer.

    with captured(pipe, [tokens_of_cat, tokens_of_dog]) as capture:
        pipe("a cat and a dog")
    masks = from_attention(capture.maps, (0.5, 0.3), size)

Every joint attention's image queries against its text keys, softmax over the text tokens only, conditional half only.
Nothing of the run changes. A whole run gives the paper's static maps, the mean over all steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import HostError
from .regions import Size, item_maps
from .sd3 import check_transformer


@contextmanager
def captured(pipe: Any, tokens: Sequence[Sequence[int]]) -> Iterator[AttentionCapture]:
    """Watch the attention of `pipe` inside this context.

    tokens: each item's positions in the joined context (`phrases.joined`). Raises HostError for other transformers,
    RegionError when a position is not in the text.
    """
    capture = AttentionCapture(pipe, tokens)
    capture.attach()
    try:
        yield capture
    finally:
        capture.detach()


class AttentionCapture:
    """The attention seen so far. Made by `captured`."""

    def __init__(self, pipe: Any, tokens: Sequence[Sequence[int]]) -> None:
        check_transformer(pipe.transformer)
        self._pipe, self._tokens = pipe, tokens
        self._sum: Tensor | None = None
        self._count = 0
        self._grid: Size = (0, 0)
        self._watched = False  # whether the call in progress counts
        self._hooks: list[Any] = []

    @property
    def maps(self) -> Tensor:
        """(B, J, h, w) on the grid of patches, the mean over layers and calls. HostError when nothing ran."""
        if self._sum is None:
            raise HostError("No attention was seen yet: call the pipeline inside the context, then read the maps.")
        return self._sum / self._count

    def attach(self) -> None:
        """Start watching."""
        transformer = self._pipe.transformer
        self._hooks = [transformer.register_forward_pre_hook(self.before_denoiser, with_kwargs=True)]
        for block in transformer.transformer_blocks:
            self._hooks += BlockCapture(self, block.attn).attach()

    def detach(self) -> None:
        """Stop watching; the maps stay."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def before_denoiser(self, transformer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the grid of a call. The extra call of skip-layer guidance does not count."""
        latent, patch = args[0] if args else kwargs["hidden_states"], transformer.config.patch_size
        self._grid = (latent.shape[-2] // patch, latent.shape[-1] // patch)
        self._watched = kwargs.get("skip_layers") is None

    def add(self, query: Tensor, key: Tensor) -> None:
        """Take in one layer: image queries (B, heads, N, d), text keys (B, heads, n, d)."""
        if not self._watched:
            return
        if getattr(self._pipe, "do_classifier_free_guidance", False):
            query, key = query.chunk(2)[1], key.chunk(2)[1]
        weights = torch.softmax(query.float() @ key.float().mT * query.shape[-1] ** -0.5, dim=-1)
        maps = item_maps([weights], self._tokens, self._grid)
        if self._sum is not None and self._sum.shape == maps.shape:
            self._sum, self._count = self._sum + maps, self._count + 1
        else:
            self._sum, self._count = maps, 1  # the first, or a run of another size


class BlockCapture:
    """Watches one joint attention: its queries and keys come before its result."""

    def __init__(self, capture: AttentionCapture, attention: Any) -> None:
        self._capture, self._attention = capture, attention
        self._query: Tensor | None = None
        self._key: Tensor | None = None

    def attach(self) -> list[Any]:
        """Hook the last module that makes the queries, and the keys."""
        attention = self._attention
        query = attention.to_q if attention.norm_q is None else attention.norm_q
        key = attention.add_k_proj if attention.norm_added_k is None else attention.norm_added_k
        return [
            query.register_forward_hook(self.after_query),
            key.register_forward_hook(self.after_key),
            attention.register_forward_hook(self.after_attention),
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
        return x if x.ndim == 4 else x.unflatten(-1, (self._attention.heads, -1)).transpose(1, 2)
