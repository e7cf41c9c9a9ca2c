"""How values are distributed step by step: a violin a step, one plot a policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from .axes import Frame, draw_axes, round_ticks
from .canvas import Canvas
from .chart import PLOT_HEIGHT, ROW_HEIGHT, WIDTH, page, places
from .theme import INK, RAMP, ramp, tint

HALF_WIDTH = 0.4  # half a violin's width, in steps
POINTS = 96  # points of its outline


def violin_chart(
    groups: Mapping[str, Sequence[Sequence[float]]],
    *,
    title: str,
    subtitle: str = "",
    x_label: str = "step",
    y_label: str = "deviation D",
    first_step: int = 0,
    columns: int = 2,
) -> Image.Image:
    """The values of each step (steps, any number) as a density, with the quartiles and the median, for each group.

    All plots have the same y axis. Values that are all equal are drawn as a line.
    """
    columns = min(columns, len(groups))
    rows = math.ceil(len(groups) / columns)
    canvas, top = page(title, subtitle, WIDTH, [], rows)
    everything = [value for steps in groups.values() for step in steps for value in step] or [0.0]
    y_ticks = round_ticks(min(0.0, *everything), max(0.0, *everything))
    colours = ramp(len(groups)) if len(groups) > 1 else [RAMP[2]]
    where = places(len(groups), columns, WIDTH)
    for (label, steps), colour, (left, row, right) in zip(groups.items(), colours, where, strict=True):
        x_range = first_step - 0.6, first_step + len(steps) - 0.4
        start = top + row * ROW_HEIGHT
        frame = Frame(left, start, right, start + PLOT_HEIGHT, x_range, (y_ticks[0], y_ticks[-1]))
        numbers = [first_step + number for number in range(len(steps))]
        draw_axes(
            canvas,
            frame,
            title=label,
            x_label=x_label,
            y_label=y_label,
            x_ticks=numbers,
            x_names=[str(number) for number in numbers],
            y_ticks=y_ticks,
        )
        for number, values in zip(numbers, steps, strict=True):
            _draw_violin(canvas, frame, number, np.asarray(values, dtype=float), colour)
    return canvas.finish()


def _draw_violin(canvas: Canvas, frame: Frame, place: float, values: np.ndarray, colour: tuple[int, int, int]) -> None:
    if not len(values):
        return
    if np.ptp(values) > 1e-6:
        heights, widths = density(values)
        outline = [frame.at(place - HALF_WIDTH * w, h) for h, w in zip(heights, widths, strict=True)]
        outline += [frame.at(place + HALF_WIDTH * w, h) for h, w in zip(heights[::-1], widths[::-1], strict=True)]
        canvas.polygon(outline, tint(colour, 0.35))
        lower, upper = np.percentile(values, [25, 75])
        canvas.line([frame.at(place, lower), frame.at(place, upper)], colour, 5)
    middle = float(np.median(values))
    canvas.line([frame.at(place - 0.22, middle), frame.at(place + 0.22, middle)], INK, 2.5)


def density(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where values (n,) lie: heights and densities, 1 at the highest. A Gaussian kernel, Silverman's width."""
    spread = min(values.std(), np.subtract(*np.percentile(values, [75, 25])) / 1.34) or values.std()
    width = max(0.9 * spread * len(values) ** -0.2, np.ptp(values) / POINTS)
    heights = np.linspace(values.min(), values.max(), POINTS)
    masses = np.exp(-((heights[:, None] - values[None]) ** 2) / (2 * width**2)).sum(1)
    return heights, masses / masses.max()
