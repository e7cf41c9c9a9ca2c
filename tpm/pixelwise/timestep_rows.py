"""How a network is told a map of timesteps: every grid reads it, and each distinct timestep is embedded once.

A map is (B, 1, H, W), in the network's own unit. A layer whose grid is `factor` times smaller reads it by `coarse`.
`TimestepRows` embeds the distinct timesteps of each image, and `GridRows` gives each position its row.

One rule keeps the number of rows small, image by image, on every host: an image with more than MOST_EXACT distinct
timesteps has them rounded to whole thousandths of the timestep of pure noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import HostError
from ..retiming.equations import Value
from .errors import RegionError, ScheduleError

Reading = Literal["corner", "mean"]
TextTime = Literal["mean", "max", "min", "background"]
Embed = Callable[[Tensor], Tensor]  # timesteps (n,) → rows (n, D)

MOST_EXACT = 256
"""Distinct timesteps of one image that are told exactly.

Every row costs each block about as much as a token does. Rounding gives a row to every thousandth between the least and
the greatest timestep, which are up to some 300 apart, so that rounding fewer than that would save nothing. The error is
at most half a thousandth: what the paper loses when it rounds to whole timesteps of 1000.
"""


# --- grids --------------------------------------------------------------------------------------------------------


def check_divisible(latent: Sequence[int], unit: int) -> None:
    """Raise RegionError unless both sides of a latent (…, height, width) are multiples of `unit` > 0."""
    height, width = latent[-2:]
    if any(side < unit or side % unit for side in (height, width)):
        raise RegionError(
            f"A latent of {width} × {height} cannot be divided into {unit} × {unit} patches; use an image whose"
            f" sides are multiples of {unit} latent pixels."
        )


def coarse(field: Tensor, factor: int, reading: Reading = "corner") -> Tensor:
    """A map (B, 1, H, W) on the grid of a layer that is `factor` times smaller: (B, 1, H/factor, W/factor).

    corner: the top-left pixel of every cell (the paper's stride); mean: the cell's mean. Raises RegionError for sides
    that are not multiples of the factor.
    """
    if reading not in get_args(Reading):
        raise ScheduleError(f"A map is read by {' or '.join(get_args(Reading))}, not {reading!r}.")
    height, width = field.shape[-2:]
    check_divisible((height, width), factor)
    if reading == "corner":
        return field[..., ::factor, ::factor]
    return field.unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor)).mean(dim=(-3, -1))


def fine(field: Tensor, factor: int) -> Tensor:
    """Every cell of (B, J, h, w) repeated to factor × factor pixels: constant inside the patches of a transformer."""
    return field.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def fitted(field: Tensor, latent: Tensor) -> Tensor:
    """A map (b, 1, …) as fp32 for every image of a call (B, C, …); guidance repeats the batch. Else HostError.

    What comes after is the same in both: (H, W), (T, H, W) of a video, or the length of parts that a host keeps as one.
    """
    fits = field.ndim == latent.ndim and field.shape[1] == 1 and field.shape[2:] == latent.shape[2:]
    if not fits or len(latent) % len(field):
        raise HostError(
            f"Timesteps of {tuple(field.shape)} do not fit a latent of {tuple(latent.shape)}; they need the shape"
            f" {(*latent.shape[:1], 1, *latent.shape[2:])} of its pixels."
        )
    return for_call(field.to(latent.device, torch.float32), len(latent))


def for_call(field: Tensor, rows: int) -> Tensor:
    """What holds for each image of a batch (b, …), for the rows of a call (rows, …), which holds whole batches."""
    return field.repeat(rows // len(field), *[1] * (field.ndim - 1))


def text_time(field: Tensor, rule: TextTime = "mean", background: Value | None = None) -> Tensor:
    """The timestep that text tokens are told, (B,), from a map (B, 1, H, W). The paper leaves this open.

    "background" is the value of pixels outside all regions, one or one per image (guidance repeats the batch), and must
    be given for that rule.
    """
    flat = field.flatten(1)
    if rule == "background" and background is not None:
        if isinstance(background, Tensor):
            return for_call(background.to(flat), len(flat))
        return flat.new_full((len(flat),), background)
    if rule not in ("mean", "max", "min"):
        raise ScheduleError(f"The text's timestep is mean, max, min, or background with its value, not {rule!r}.")
    if rule == "mean":
        return flat[:, 0] + (flat - flat[:, :1]).mean(dim=1)  # exact where all are equal
    return flat.amax(dim=1) if rule == "max" else flat.amin(dim=1)


# --- rows ---------------------------------------------------------------------------------------------------------


@dataclass
class GridRows:
    """The timesteps of one call on one grid: B images, N positions row by row, U distinct timesteps of an image.

    rows: (B, U, D), the embedding of every distinct timestep of each image. index: (B, N), which row a position has.
    """

    rows: Tensor
    index: Tensor

    def spread(self, rows: Tensor) -> Tensor:
        """(B, U, C) → (B, N, C), what a layer makes of the rows; (B, 1, C), which broadcasts, where U is 1."""
        if rows.shape[1] == 1:
            return rows
        return rows[torch.arange(len(rows), device=rows.device)[:, None], self.index]

    def as_image(self, rows: Tensor, height: int) -> Tensor:
        """(B, U, C) → (B, C, h, w) on the grid of this height; (B, C, 1, 1), which broadcasts, where U is 1."""
        columns = rows.mT
        if rows.shape[1] == 1:
            return columns[..., None]
        image = columns.gather(2, self.index[:, None].expand(-1, columns.shape[1], -1))
        return image.unflatten(-1, (height, -1))


class TimestepRows:
    """The rows of one call of a network, for a map (B, 1, H, W) in the network's unit; each grid's are made once.

    embed: the network's embedding of timesteps. What the network adds to it (pooled text, guidance, class) is added to
    every row, in the network's order. span: the timestep of pure noise.
    """

    def __init__(self, field: Tensor, embed: Embed, reading: Reading = "corner", span: float = 1000.0) -> None:
        self.height = field.shape[-2]
        self._field, self._embed, self._reading, self._span = field, embed, reading, span
        self._added: list[Tensor] = []
        self._grids: dict[int, GridRows] = {}

    def add(self, embedding: Tensor) -> None:
        """Take in another embedding (B, D) of the call, or (1, D) for all images."""
        self._added.append(embedding)

    def at(self, factor: int) -> GridRows:
        """The rows of a layer whose grid is `factor` times smaller."""
        if factor not in self._grids:
            values, index = told_timesteps(coarse(self._field, factor, self._reading).flatten(1), self._span)
            rows = self._embed(values.flatten()).unflatten(0, values.shape)
            for embedding in self._added:
                rows = rows + embedding[:, None]
            self._grids[factor] = GridRows(rows, index)
        return self._grids[factor]


def told_timesteps(timesteps: Tensor, span: float) -> tuple[Tensor, Tensor]:
    """`distinct_rows` of timesteps (B, N), after an image with more than MOST_EXACT of them has had them rounded.

    What an image is told depends on nothing else in its batch.
    """
    values, index, counts = distinct_rows(timesteps)
    if values.shape[1] <= MOST_EXACT:
        return values, index
    many = (counts > MOST_EXACT)[:, None]
    return distinct_rows(torch.where(many, rounded(timesteps, span), timesteps))[:2]


def rounded(timesteps: Tensor, span: float) -> Tensor:
    """Timesteps of any shape as whole thousandths of `span`, the timestep of pure noise."""
    whole = span / 1000
    return (timesteps / whole).round() * whole


def distinct_rows(timesteps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct values (B, U) of each row of (B, N), each position's place among them (B, N), and how many (B,).

    Values ascend; a row that has fewer than U ends with repeats of its own. Asks the device once, for U.
    """
    ordered, order = timesteps.sort(dim=1)
    place = F.pad((ordered[:, 1:] != ordered[:, :-1]).long().cumsum(dim=1), (1, 0))
    counts = place[:, -1] + 1
    values = ordered[:, : int(counts.max())].scatter(1, place, ordered)
    return values, torch.empty_like(place).scatter(1, order, place), counts


def sinusoid(timesteps: Tensor, width: int, scale: float = 1.0) -> Tensor:
    """Features cos, sin (n, width) of timesteps (n,), in fp32, as the networks make them of a scalar one."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = (scale * timesteps)[:, None].float() * torch.exp(-math.log(10000) * steps / half)[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, rows: GridRows) -> Tensor:
    """x·(1 + scale) + shift at every position: x (B, N, C), shift and scale (B, U, C)."""
    return torch.addcmul(rows.spread(shift), x, 1 + rows.spread(scale))
