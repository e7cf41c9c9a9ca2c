"""Pictures of pixel-wise runs: regions in colour over an image, and the σ of each region over the steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..drawing.canvas import Canvas
from ..drawing.chart import Plot, Series, line_chart
from ..drawing.fonts import shorten, text_width
from ..drawing.theme import BODY, INK, NEUTRAL, PAPER, RAMP, Colour, mix, tint
from .regions import by_priority
from .schedules import Pace, SlowCurve, sigma_at, trajectory

COVER = 0.45  # how much of a region's colour lies over the image
WIDTH = 768  # pixels of an overlay's longer side
LINE = 34  # height of a legend's line


def overlay(
    labels: Tensor, names: Sequence[str], strengths: Sequence[float], picture: Image.Image | None, caption: str = ""
) -> Image.Image:
    """Regions over a picture, with a legend below. labels: (H, W), 0 background, j region j from 1.

    caption: what stands first in the legend, such as which frame of a video this is.
    """
    height, width = labels.shape
    shape = picture.size if picture is not None else (width, height)
    factor = WIDTH / max(shape)
    size = round(shape[0] * factor), round(shape[1] * factor)
    below = Image.new("RGB", size, (210, 214, 219)) if picture is None else picture.convert("RGB").resize(size)
    entries: list[Entry] = [(caption, None)] if caption else []
    entries += [
        (f"{name}   k = {k:g}", colour) for name, k, colour in zip(names, strengths, colours(names), strict=True)
    ]
    canvas = Canvas(size[0], size[1] + 16 + LINE * len(rows_of(entries, size[0])), oversample=1)
    canvas.picture(coloured(below, labels, colours(names)), 0, 0)
    for number, row in enumerate(rows_of(entries, size[0])):
        draw_row(canvas, row, size[1] + 8 + LINE * number)
    return canvas.finish()


def colours(names: Sequence[str]) -> list[Colour]:
    """One for each region."""
    ends = RAMP[0], RAMP[2]
    return [mix(*ends, j / max(len(names) - 1, 1)) for j in range(len(names))]


def coloured(picture: Image.Image, labels: Tensor, palette: Sequence[Colour]) -> Image.Image:
    """The picture with each region tinted; hard edges, since regions have them."""
    index = Image.fromarray(labels.to(torch.uint8).cpu().numpy()).resize(picture.size, Image.Resampling.NEAREST)
    inside = np.asarray(index)
    paint = np.array([(0, 0, 0), *palette], dtype=np.float32)[inside]
    pixels = np.asarray(picture, dtype=np.float32)
    mixed = np.where(inside[..., None] > 0, pixels * (1 - COVER) + paint * COVER, pixels)
    light = np.array([(0, 0, 0), *(tint(colour, 0.6) for colour in palette)], dtype=np.float32)[inside]
    return Image.fromarray(np.where(edges(inside)[..., None], light, mixed).round().astype(np.uint8))


def edges(index: np.ndarray) -> np.ndarray:
    """Where a region's outermost two pixels are."""
    border = np.zeros(index.shape, dtype=bool)
    for shift in (1, 2):
        for axis in (0, 1):
            for step in (shift, -shift):
                border |= np.roll(index, step, axis) != index
    return border & (index > 0)


Entry = tuple[str, Colour | None]  # what it says, and the colour that it explains


def rows_of(entries: Sequence[Entry], width: int) -> list[list[Entry]]:
    """Legend entries in lines that fit."""
    rows: list[list[Entry]] = [[]]
    room = 0.0
    for text, colour in entries:
        short = shorten(text, BODY, width - 48)
        need = (52 if colour else 24) + text_width(short, BODY)
        if rows[-1] and room + need > width:
            rows.append([])
            room = 0.0
        rows[-1].append((short, colour))
        room += need
    return rows


def draw_row(canvas: Canvas, row: Sequence[Entry], top: float) -> None:
    """One line of the legend."""
    left = 12.0
    for text, colour in row:
        if colour:
            canvas.box(left, top + 7, left + 20, top + 27, colour, radius=3)
            left += 28
        canvas.text(left, top + 17, text, BODY, INK, anchor="lm")
        left += 24 + text_width(text, BODY)


def schedule_chart(
    sigmas: Tensor, names: Sequence[str], strengths: Sequence[float], curve: SlowCurve, concave: bool
) -> Image.Image:
    """σ per step of the background and of each region on the host's grid (S + 1,).

    concave: the control; no background is left, and every pixel is on the curve of the strongest.
    """
    pace = Pace(len(sigmas) - 1, curve)
    steps = list(range(len(sigmas)))
    lines = [Series("the scheduler's σ" if concave else "background", steps, sigmas.tolist(), NEUTRAL, dashed=True)]
    order = by_priority(strengths)[:1] if concave else range(len(names))
    palette = [PAPER, *colours(names)]
    for j in order:
        states = torch.tensor(trajectory(pace, strengths[j]), dtype=torch.float64)
        label = f"every pixel, k = {strengths[j]:g}" if concave else f"{names[j]}, k = {strengths[j]:g}"
        lines.append(Series(label, steps, sigma_at(states, sigmas.cpu()).tolist(), palette[j + 1]))
    plots = [Plot("Where each pixel is", "step", "noise level σ", lines, whole_x=True, include_zero=True)]
    title = "Concave schedule (control)" if concave else "Pixel-wise schedule"
    return line_chart(plots, title=title, subtitle=f"{pace.steps} steps · {curve}", width=1080)
