"""How much of the attention a prompt's items get, over the layers and calls of a run, for `regions.from_attention`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import HostError
from .regions import Size, item_maps


class Heat:
    """Attention maps of items since the last `clear`. A network adds its layers, a host says which rows count."""

    def __init__(self, tokens: Sequence[Sequence[int]], length: int) -> None:
        self.length = length  # of the text that the positions `tokens` count in
        self._tokens = tokens
        self._chunks: list[int] = []
        self._count = 0
        self._grid: Size = (0, 0)
        self._offset, self._batch = 0, 1
        self._sum: Tensor | None = None

    def clear(self) -> None:
        """Forget what was seen."""
        self._sum, self._count = None, 0

    def expect(self, chunks: Sequence[int], batch: int, grid: Size) -> None:
        """A call follows whose conditional prompts are these chunks of `batch` rows, with a grid of queries."""
        self._chunks, self._batch, self._grid = list(chunks), batch, grid

    def add(self, query: Tensor, key: Tensor, offset: int = 0) -> None:
        """Take in one layer: image queries (n·B, heads, N, d), text keys (n·B, heads, T, d).

        offset: where the text begins among the keys. Softmax is over the text only.
        """
        tokens = [[offset + place for place in places] for places in self._tokens]
        for chunk in self._chunks:
            rows = slice(chunk * self._batch, (chunk + 1) * self._batch)
            weights = query[rows].float() @ key[rows].float().mT * query.shape[-1] ** -0.5
            maps = item_maps([weights.softmax(dim=-1)], tokens, self._grid)
            self._sum = maps if self._sum is None else self._sum + maps
            self._count += 1

    @property
    def maps(self) -> Tensor:
        """(B, J, h, w), the mean over layers and calls. Raises HostError when nothing was seen."""
        if self._sum is None:
            raise HostError(
                "No attention to the prompt was seen in this step: regions from a prompt need the positive conditioning"
                " in every step, and no other patch that replaces the attention. Or use Region from Mask."
            )
        return self._sum / self._count


def heads_first(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads · d) → (B, heads, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def split_text(query: Tensor, key: Tensor, text: int) -> tuple[Tensor, Tensor]:
    """Image queries and text keys of a joint attention (B, heads, text + N, d) whose text comes first."""
    return query[:, :, text:], key[:, :, :text]


def conditional_chunks(cond_or_uncond: Sequence[int]) -> list[int]:
    """The places of the positive prompts (0) among the chunks of a call."""
    return [place for place, kind in enumerate(cond_or_uncond) if kind == 0]


def mean_maps(maps: Sequence[Tensor]) -> Tensor:
    """The mean of the steps' maps, for static regions."""
    return torch.stack(list(maps)).mean(dim=0)
