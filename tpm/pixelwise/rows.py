"""The time embeddings of a map of timesteps: one row for each distinct value, gathered by every grid of a network."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..hosts.diffusers import sd3
from ..hosts.diffusers.sd3 import Tokens
from .maps import Reading, coarse

Embed = Callable[[Tensor], Tensor]  # timesteps (U,) → (U, D)


class Rows:
    """The embeddings of one call of a network, for a map (B, 1, H, W) in the network's unit.

    What the network adds to its time embedding (pooled text, guidance, class) is added to every row, in its order.
    span: the timestep of pure noise; where there are many distinct ones they are rounded to thousandths of it.
    """

    def __init__(self, field: Tensor, embed: Embed, reading: Reading = "corner", span: float = 1000.0) -> None:
        self.height, self._whole = field.shape[-2], span / 1000
        self._field, self._embed, self._reading = field, embed, reading
        self._added: list[Tensor] = []
        self._grids: dict[int, Tokens] = {}

    def add(self, embedding: Tensor) -> None:
        """Take in another embedding (B, D) of the call."""
        self._added.append(embedding)

    def at(self, factor: int) -> Tokens:
        """The rows of a layer whose grid is `factor` times smaller, its positions row by row."""
        if factor not in self._grids:
            values, index = self._distinct(coarse(self._field, factor, self._reading))
            rows = self._embed(values)[None]
            for embedding in self._added:
                rows = rows + embedding[:, None]
            self._grids[factor] = Tokens(rows, index.flatten(1))
        return self._grids[factor]

    def _distinct(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """The values (U,) and each position's place among them; as many rows as tokens would cost as much as they."""
        values, index = field.unique(return_inverse=True)
        if len(values) <= sd3.MOST_EXACT:
            return values, index
        return ((field / self._whole).round() * self._whole).unique(return_inverse=True)


def sinusoid(timesteps: Tensor, width: int, scale: float = 1.0) -> Tensor:
    """Features cos, sin (U, width) of timesteps (U,), in fp32, as the networks make them of a scalar one."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = (scale * timesteps)[:, None].float() * torch.exp(-math.log(10000) * steps / half)[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, tokens: Tokens) -> Tensor:
    """Adds shift to x·(1 + scale) in one operation, as the networks do it: x (B, N, C), the rows (b, U, C)."""
    return torch.addcmul(tokens.spread(shift), x, 1 + tokens.spread(scale))


def as_image(rows: Tensor, tokens: Tokens, height: int) -> Tensor:
    """Rows (b, U, C) gathered to (B, C, h, w); (b, C, 1, 1), which broadcasts, when there is one timestep."""
    columns = rows.mT
    if rows.shape[1] == 1:
        return columns[..., None]
    index = tokens.index[:, None].expand(-1, rows.shape[2], -1)
    image = torch.gather(columns.expand(len(index), -1, -1), 2, index)
    return image.unflatten(-1, (height, -1))
