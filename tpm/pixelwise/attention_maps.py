"""How much of the attention a prompt's items get, over the layers and calls of a step, for `regions.from_attention`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import HostError
from .regions import Size, item_maps

Items = Sequence[Sequence[int]]
"""The token positions of each item of a prompt."""


class MapMean:
    """The mean of the maps (B, J, h, w) that came since the last `take`."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, maps: Tensor) -> None:
        """Take in one more; maps of another shape are those of another run and begin anew."""
        if self._sum is not None and self._sum.shape == maps.shape:
            self._sum, self._count = self._sum + maps, self._count + 1
        else:
            self._sum, self._count = maps, 1

    @property
    def mean(self) -> Tensor | None:
        """(B, J, h, w), or None when nothing came."""
        return None if self._sum is None else self._sum / self._count

    def clear(self) -> None:
        """Forget what came."""
        self._sum, self._count = None, 0


@dataclass(frozen=True)
class TextPlace:
    """Where the text that positions count in lies among the tokens of one conditioning."""

    length: int  # tokens of the conditioning
    shift: int = 0  # where the text begins in it


class AttentionWatch:
    """Watches one run of a host: a network hands over its layers, the host says which prompts of a call count.

    tokens: each item's positions in its text. texts: the conditionings that hold this text, by the host's name for
    them; each counts once a step, however often the host calls the network with it.
    """

    def __init__(self, tokens: Items, texts: Mapping[Hashable, TextPlace]) -> None:
        self._tokens, self._texts = tokens, texts
        self._maps = MapMean()
        self._counted: set[Hashable] = set()  # the conditionings of this step that were seen
        self._chunks: list[tuple[int, TextPlace]] = []
        self._batch = 1
        self._grid: Size = (0, 0)

    def expect(self, names: Sequence[Hashable], batch: int, grid: Size) -> bool:
        """A call follows with a chunk of `batch` rows for each of these conditionings. Whether any of them counts."""
        fresh = [(n, name) for n, name in enumerate(names) if name in self._texts and name not in self._counted]
        self._counted.update(name for _, name in fresh)
        self._chunks = [(n, self._texts[name]) for n, name in fresh]
        self._batch, self._grid = batch, grid
        return bool(fresh)

    def add(self, query: Tensor, key: Tensor, padded_left: bool = False) -> None:
        """Take in one layer: image queries (n·B, heads, N, d), text keys (n·B, heads, T, d).

        padded_left: the conditionings are the last of the T keys, else the first.
        """
        for chunk, text in self._chunks:
            rows = slice(chunk * self._batch, (chunk + 1) * self._batch)
            offset = text.shift + (max(key.shape[2] - text.length, 0) if padded_left else 0)
            tokens = [[offset + place for place in places] for places in self._tokens]
            self._maps.add(text_maps(query[rows], key[rows], tokens, self._grid))

    def take(self) -> Tensor:
        """The maps (B, J, h, w) of the step, which then is over. Raises HostError when nothing was seen."""
        maps = self._maps.mean
        self._maps.clear()
        self._counted = set()
        if maps is None:
            raise HostError(
                "No attention to the prompt was seen in this step: regions from a prompt need the positive conditioning"
                " in every step, and no other patch that replaces the attention. Or use Region from Mask."
            )
        return maps


def text_maps(query: Tensor, key: Tensor, tokens: Items, grid: Size) -> Tensor:
    """One layer's attention to each item, (B, J, h, w): image queries (B, heads, N, d), text keys (B, heads, T, d).

    The softmax is over the text alone.
    """
    weights = torch.softmax(query.float() @ key.float().mT * query.shape[-1] ** -0.5, dim=-1)
    return item_maps([weights], tokens, grid)


def heads_first(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads · d) → (B, heads, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def split_text(query: Tensor, key: Tensor, text: int) -> tuple[Tensor, Tensor]:
    """Image queries and text keys of a joint attention (B, heads, text + N, d) whose text comes first."""
    return query[:, :, text:], key[:, :, :text]
