"""Axes: round tick values, a mapping from data to pixels, and the frame that a plot is drawn in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..numbers import minus
from .canvas import Canvas, Point
from .fonts import text_width
from .theme import INK, MUTED, NEUTRAL, RULE, SMALL, SUBTITLE


def round_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About ``count`` round numbers (1, 2, 2.5 or 5 times a power of ten apart) that cover [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high)) or high - low < 1e-9:
        centre = low if math.isfinite(low) else 0.0
        low, high = centre - 0.5, centre + 0.5
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [n * step for n in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks as text, all with the digits that tell them apart; a real minus sign."""
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    digits = next((d for d in range(7) if abs(step * 10**d - round(step * 10**d)) < 1e-6), 6)
    return [minus(f"{tick:.{digits}f}") if abs(tick) > 1e-12 else f"{0:.{digits}f}" for tick in ticks]


@dataclass(frozen=True)
class Frame:
    """A plot's rectangle in pixels and the data range it shows."""

    left: float
    top: float
    right: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def at(self, x: float, y: float) -> Point:
        """Where a data point lies on the page."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        return (
            self.left + (x - x0) / (x1 - x0) * (self.right - self.left),
            self.bottom - (y - y0) / (y1 - y0) * (self.bottom - self.top),
        )

    def path(self, xs: Sequence[float], ys: Sequence[float]) -> list[Point]:
        """Data points as page points; those that are not finite are left out."""
        return [self.at(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]


def draw_axes(
    canvas: Canvas,
    frame: Frame,
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_names: Sequence[str] | None = None,
) -> None:
    """Horizontal rules, tick labels and the plot's heading, which names the y axis. Zero gets a stronger rule."""
    canvas.text(frame.left, frame.top - 22, title, SUBTITLE, INK, bold=True)
    beside = frame.left + text_width(title, SUBTITLE, bold=True) + 10
    canvas.text(beside, frame.top - 22, y_label, SUBTITLE, MUTED)
    for value, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        _, y = frame.at(frame.x_range[0], value)
        canvas.line([(frame.left, y), (frame.right, y)], NEUTRAL if abs(value) < 1e-12 else RULE, 1)
        canvas.text(frame.left - 12, y, label, SMALL, MUTED, anchor="rm")
    for value, label in zip(x_ticks, x_names or tick_labels(x_ticks), strict=True):
        x, _ = frame.at(value, frame.y_range[0])
        canvas.line([(x, frame.bottom), (x, frame.bottom + 5)], NEUTRAL, 1)
        canvas.text(x, frame.bottom + 22, label, SMALL, MUTED, anchor="ms")
    canvas.text((frame.left + frame.right) / 2, frame.bottom + 50, x_label, SMALL, MUTED, anchor="ms")
