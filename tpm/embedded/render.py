"""Rendering of scenes, vectorised over the batch: signed distances for objects, splatted dots for random detail."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .vocabulary import BACKGROUNDS, PATTERNS, SHAPES
from .world import PIXELS, Item, Scene

PALETTE = torch.tensor(
    [
        (0.89, 0.15, 0.16),  # red
        (0.98, 0.55, 0.10),  # orange
        (0.98, 0.86, 0.16),  # yellow
        (0.16, 0.66, 0.29),  # green
        (0.15, 0.40, 0.89),  # blue
        (0.58, 0.22, 0.76),  # purple
    ]
)
_WINDOW, _MARGIN = 72, 24
_CONFETTI = torch.tensor(
    [(0.93, 0.31, 0.44), (0.99, 0.67, 0.22), (0.25, 0.72, 0.64), (0.32, 0.55, 0.93), (0.62, 0.42, 0.85)]
)


def render(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Draw ``scenes``: images (n, 3, 128, 128) in [0, 1], object masks (n, 128, 128) and dot counts (n,).

    A dot counts when its centre lies on the background.
    """
    canvas, dots = _backgrounds(scenes)
    canvas = F.pad(canvas, (_MARGIN,) * 4)
    mask = torch.zeros(len(scenes), *canvas.shape[-2:])
    for slot in range(max(len(scene.items) for scene in scenes)):
        rows = [i for i, scene in enumerate(scenes) if len(scene.items) > slot]
        if rows:
            _paint(canvas, mask, torch.tensor(rows), [scenes[i].items[slot] for i in rows])
    inner = slice(_MARGIN, _MARGIN + PIXELS)
    mask = mask[:, inner, inner]
    row, x, y = dots[:, 0].long(), dots[:, 1].long(), dots[:, 2].long()
    visible = torch.zeros(len(scenes)).index_add_(0, row, (mask[row, y, x] < 0.5).float())
    return canvas[:, :, inner, inner], mask, visible


# ------------------------------------------------------------------------------------------------------- objects


def _paint(canvas: Tensor, mask: Tensor, rows: Tensor, items: Sequence[Item]) -> None:
    """Paint one object into each of the padded canvases ``rows``, in place, touching only a window around it."""
    centre = torch.tensor([(item.x, item.y) for item in items])
    corner = centre.floor().long() + _MARGIN - _WINDOW // 2
    reach = torch.arange(_WINDOW)
    at = (rows[:, None, None], corner[:, 1, None, None] + reach[:, None], corner[:, 0, None, None] + reach)
    offset = reach + 0.5 + (corner - _MARGIN - centre)[:, :, None]
    color, alpha = _objects(items, offset[:, 0, None, :], offset[:, 1, :, None])
    window = canvas.movedim(1, -1)[at]
    canvas.movedim(1, -1)[at] = torch.lerp(window, color.movedim(1, -1), alpha[..., None])
    mask[at] = torch.maximum(mask[at], alpha)


def _objects(items: Sequence[Item], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Colour (n, 3, h, w) and coverage (n, h, w) of objects on offsets x (n, 1, w), y (n, h, 1); darker outline."""
    radius = torch.tensor([item.radius for item in items]).view(-1, 1, 1)
    u, w = torch.broadcast_tensors(x, y)
    distance = torch.empty_like(u)
    for shape, rows in _groups([item.shape for item in items]):
        distance[rows] = _DISTANCES[SHAPES[shape]](u[rows], w[rows], radius[rows])
    light = torch.zeros_like(u)
    for pattern, rows in _groups([item.pattern for item in items]):
        light[rows] = _PATTERNS[PATTERNS[pattern]](u[rows], w[rows])
    base = PALETTE[[item.color for item in items]][:, :, None, None]
    outline = (distance + 2.5).clamp(0, 1)[:, None]
    color = torch.lerp(torch.lerp(base, torch.ones(()), 0.72 * light[:, None]), base * 0.5, outline)
    return color, (0.5 - distance).clamp(0, 1)


def _groups(kinds: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    for kind in sorted(set(kinds)):
        yield kind, [i for i, other in enumerate(kinds) if other == kind]


def _solid(u: Tensor, w: Tensor) -> Tensor:
    return torch.zeros_like(u * w)


def _striped(u: Tensor, w: Tensor) -> Tensor:
    return _soft(torch.sin((u + w) * (2 * math.pi / 20)) * 3)


def _checkered(u: Tensor, w: Tensor) -> Tensor:
    return _soft(torch.sin(u * math.pi / 11) * torch.sin(w * math.pi / 11) * 8)


def _dotted(u: Tensor, w: Tensor) -> Tensor:
    cell_u, cell_w = (u + 6.5) % 13 - 6.5, (w + 6.5) % 13 - 6.5
    return (4.3 - torch.hypot(cell_u, cell_w)).clamp(0, 1)


def _soft(value: Tensor) -> Tensor:
    return (value + 0.5).clamp(0, 1)


def _circle(u: Tensor, w: Tensor, r: Tensor) -> Tensor:
    return torch.hypot(u, w) - 0.95 * r


def _square(u: Tensor, w: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(u.abs(), w.abs()) - 0.84 * r


def _triangle(u: Tensor, w: Tensor, r: Tensor) -> Tensor:
    down = w + 0.15 * r
    sides = (u.abs() * math.sqrt(3) - down) / 2
    return torch.maximum(sides - 0.44 * r, down - 0.72 * r)


def _star(u: Tensor, w: Tensor, r: Tensor) -> Tensor:
    sector = 2 * math.pi / 5
    theta = (torch.atan2(u, -w) + sector / 2) % sector - sector / 2
    length = torch.hypot(u, w)
    along, across = length * theta.cos(), length * theta.abs().sin()
    outer, inner = 1.12 * r, 0.47 * r
    edge_x, edge_y = inner * math.cos(sector / 2) - outer, inner * math.sin(sector / 2)
    return ((along - outer) * -edge_y + across * edge_x) / -torch.hypot(edge_x, edge_y)


def _cross(u: Tensor, w: Tensor, r: Tensor) -> Tensor:
    arm = 0.36 * r
    upright = torch.maximum(u.abs() - arm, w.abs() - r)
    level = torch.maximum(w.abs() - arm, u.abs() - r)
    return torch.minimum(upright, level)


def _ring(u: Tensor, w: Tensor, r: Tensor) -> Tensor:
    return (torch.hypot(u, w) - 0.72 * r).abs() - 0.27 * r


_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}

_PATTERNS = {
    "solid": _solid,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
}

# --------------------------------------------------------------------------------------------------- backgrounds


def _backgrounds(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Backdrops (n, 3, H, W) and the random dots on them (dots, 3) as (row, x, y)."""
    canvas = torch.empty(len(scenes), 3, PIXELS, PIXELS)
    dots = [torch.empty(0, 3)]
    for kind, rows in _groups([scene.background for scene in scenes]):
        rngs = [np.random.default_rng(scenes[i].detail_seed) for i in rows]
        canvas[rows], at = _DRAW[BACKGROUNDS[kind]](rngs)
        at[:, 0] = torch.tensor(rows)[at[:, 0].long()]
        dots.append(at)
    return canvas, torch.cat(dots)


def _flat(count: int, color: tuple[float, float, float]) -> Tensor:
    return torch.tensor(color).view(1, 3, 1, 1).repeat(count, 1, PIXELS, PIXELS)


def _plain(rngs: list[np.random.Generator]) -> tuple[Tensor, Tensor]:
    shade = torch.tensor([rng.uniform(0.78, 0.92) for rng in rngs]).float()
    return shade.view(-1, 1, 1, 1).expand(-1, 3, PIXELS, PIXELS), torch.empty(0, 3)


def _starry(rngs: list[np.random.Generator]) -> tuple[Tensor, Tensor]:
    glow = torch.linspace(0, 1, PIXELS).view(1, -1, 1) * torch.tensor([0.05, 0.05, 0.14]).view(3, 1, 1)
    dots = _scatter(rngs, 44, 68)
    look = np.concatenate([rng.uniform(0, 1, (n, 2)) for rng, n in zip(rngs, _counts(dots, len(rngs)), strict=True)])
    shine, width = torch.from_numpy(look).float().T
    tint = torch.tensor([1.0, 0.98, 0.88]) * (0.75 + 0.25 * shine[:, None])
    return _splat(_flat(len(rngs), (0.05, 0.06, 0.18)) + glow, dots, tint, 1.4 + 0.7 * width), dots


def _confetti(rngs: list[np.random.Generator]) -> tuple[Tensor, Tensor]:
    dots = _scatter(rngs, 32, 52)
    look = np.concatenate([rng.uniform(0, 1, (n, 2)) for rng, n in zip(rngs, _counts(dots, len(rngs)), strict=True)])
    hue, width = torch.from_numpy(look).float().T
    tint = _CONFETTI[(hue * len(_CONFETTI)).long()]
    return _splat(_flat(len(rngs), (0.97, 0.95, 0.89)), dots, tint, 2.1 + 0.8 * width), dots


def _cloudy(rngs: list[np.random.Generator]) -> tuple[Tensor, Tensor]:
    field = torch.zeros(len(rngs), 1, PIXELS, PIXELS)
    for cells, strength in ((5, 1.0), (10, 0.5), (18, 0.25)):
        noise = torch.from_numpy(np.stack([rng.standard_normal((1, cells, cells)) for rng in rngs])).float()
        field += strength * F.interpolate(noise, size=PIXELS, mode="bicubic", align_corners=False)
    sky, cloud = _flat(len(rngs), (0.36, 0.60, 0.88)), _flat(1, (0.95, 0.96, 0.98))
    return torch.lerp(sky, cloud, torch.sigmoid(2.2 * field)), torch.empty(0, 3)


_DRAW = {"plain": _plain, "starry": _starry, "confetti": _confetti, "cloudy": _cloudy}


def _scatter(rngs: list[np.random.Generator], fewest: int, most: int, spacing: float = 8.5) -> Tensor:
    """Random dots (dots, 3) as (row, x, y): ``fewest`` to ``most`` drawn, those too close to an earlier one dropped."""
    kept = []
    for row, rng in enumerate(rngs):
        points = rng.uniform(3, PIXELS - 3, (int(rng.integers(fewest, most)), 2))
        near = np.square(points[:, None] - points[None]).sum(-1) < spacing**2
        points = points[~np.tril(near, -1).any(1)]
        kept.append(np.column_stack([np.full(len(points), row), points]))
    return torch.from_numpy(np.concatenate(kept)).float()


def _counts(dots: Tensor, rows: int) -> list[int]:
    return torch.bincount(dots[:, 0].long(), minlength=rows).tolist()


def _splat(canvas: Tensor, dots: Tensor, tint: Tensor, radius: Tensor) -> Tensor:
    """Anti-aliased dots (d, 3) of colours (d, 3) and radii (d,) pixels on canvas (n, 3, H, W)."""
    reach = torch.arange(-4, 5)
    dy, dx = torch.meshgrid(reach, reach, indexing="ij")
    xs = dots[:, 1, None].long() + dx.reshape(1, -1)
    ys = dots[:, 2, None].long() + dy.reshape(1, -1)
    distance = torch.hypot(xs + 0.5 - dots[:, 1, None], ys + 0.5 - dots[:, 2, None])
    alpha = (radius[:, None] + 0.5 - distance).clamp(0, 1)
    alpha = alpha * ((xs >= 0) & (xs < PIXELS) & (ys >= 0) & (ys < PIXELS))
    index = (dots[:, :1].long() * PIXELS + ys.clamp(0, PIXELS - 1)) * PIXELS + xs.clamp(0, PIXELS - 1)
    paint = torch.cat([alpha[..., None], alpha[..., None] * tint[:, None]], -1).view(-1, 4)
    layer = torch.zeros(len(canvas) * PIXELS * PIXELS, 4).index_add_(0, index.view(-1), paint)
    layer = layer.view(-1, PIXELS, PIXELS, 4).movedim(-1, 1)
    cover = layer[:, :1]
    return torch.lerp(canvas, layer[:, 1:] / cover.clamp_min(1e-6), cover.clamp(0, 1))
