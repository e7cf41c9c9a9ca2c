"""Charts of a retimed run: σ and t* per step for several γ, and the distribution of D per step over a batch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from .axes import Frame, draw_axes, round_ticks
from .canvas import Canvas
from .fonts import shorten, text_width, wrap
from .theme import BODY, INK, MUTED, NEUTRAL, PAPER, RAMP, SUBTITLE, TITLE, Colour, ramp, tint

MARGIN, WIDTH, PLOT_HEIGHT = 48, 1480, 440
MOST_MARKERS = 32
AXIS_LEFT, AXIS_BOTTOM, PLOT_GAP = 52, 64, 56
ROW_GAP = AXIS_BOTTOM + 62  # between the frames of two rows
ROW_HEIGHT = PLOT_HEIGHT + ROW_GAP
MOST_COUNTED = 64  # steps; beyond, ticks are round numbers


@dataclass(frozen=True)
class Series:
    """One line with markers; ``low`` and ``high`` are a band around it, such as a batch's extremes."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: Colour = RAMP[2]
    dashed: bool = False
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Plot:
    """One pair of axes with its lines."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    whole_x: bool = False
    include_zero: bool = False


def line_chart(
    plots: Sequence[Plot],
    *,
    title: str,
    subtitle: str = "",
    width: int = WIDTH,
    columns: int | None = None,
    legend: bool = True,
    height: int = PLOT_HEIGHT,
) -> Image.Image:
    """One or more plots under one heading and the first one's legend: side by side, or so many in a row.

    ``height`` is that of a plot's frame.
    """
    columns = columns or len(plots)
    rows = math.ceil(len(plots) / columns)
    canvas, top = page(title, subtitle, width, plots[0].series if legend else [], rows, height)
    for plot, (left, row, right) in zip(plots, places(len(plots), columns, width), strict=True):
        _draw_plot(canvas, plot, left, top + row * (height + ROW_GAP), right, height)
    return canvas.finish()


def places(count: int, columns: int, width: int) -> list[tuple[float, int, float]]:
    """For each of ``count`` plots its frame's left end, its row and its frame's right end."""
    room = (width - 2 * MARGIN - PLOT_GAP * (columns - 1)) / columns
    lefts = [MARGIN + (number % columns) * (room + PLOT_GAP) for number in range(count)]
    return [(left + AXIS_LEFT, number // columns, left + room) for number, left in enumerate(lefts)]


def retiming_chart(
    sigmas: Sequence[float],
    runs: Mapping[str, Sequence[Sequence[float]]],
    *,
    title: str,
    subtitle: str = "",
    ranges: bool = False,
) -> Image.Image:
    """What the denoiser is told, step by step: t* per run beside how far it lies below the latent's own σ.

    ``sigmas`` are the K evaluated grid points; ``runs`` maps a label such as "γ = 1" to t* per step, each a list with
    one value for the whole batch or one per sample. A band spans a batch; with ``ranges`` it is all that is known,
    and the line in its middle is only a guide.
    """
    steps = list(range(len(sigmas)))
    told = _coloured([_over_batch(label, steps, t_star) for label, t_star in runs.items()], sigmas)
    told = [replace(series, dashed=ranges and series.low is not None) for series in told]
    if not any(list(series.y) == list(sigmas) for series in told):
        told.insert(0, Series("synchronous", steps, sigmas, NEUTRAL))
    ahead = [_subtracted(sigmas, series) for series in told]
    plots = [
        Plot("Timestep that the model is told", "step", "t*", told, whole_x=True, include_zero=True),
        Plot("Ahead of the latent", "step", "noise level σ − t*", ahead, whole_x=True, include_zero=True),
    ]
    return line_chart(plots, title=title, subtitle=subtitle)


def step_distribution(
    values: Sequence[Sequence[float]],
    *,
    title: str,
    subtitle: str = "",
    x_label: str = "step",
    y_label: str = "D",
    first_step: int = 0,
    width: int = 1080,
    proposed: Sequence[Sequence[float]] | None = None,
) -> Image.Image:
    """A batch's values per step: every value as a dot, the quartiles as a box, the median as a line.

    ``proposed`` has the shape of ``values``: what each was before a limit cut it, drawn as a ring where it differs.
    """
    canvas, top = page(title, subtitle, width, [])
    everything = [v for step in (*values, *(proposed or ())) for v in step if math.isfinite(v)] or [0.0]
    y_ticks = round_ticks(min(0.0, *everything), max(0.0, *everything))
    x_range = first_step - 0.6, first_step + len(values) - 0.4
    frame = Frame(MARGIN + AXIS_LEFT, top, width - MARGIN, top + PLOT_HEIGHT, x_range, (y_ticks[0], y_ticks[-1]))
    places = [first_step + i for i in range(len(values))]
    draw_axes(
        canvas,
        frame,
        title="Deviation per step",
        x_label=x_label,
        y_label=y_label,
        x_ticks=places,
        x_names=[str(p) for p in places],
        y_ticks=y_ticks,
    )
    for place, step in zip(places, values, strict=True):
        _draw_box(canvas, frame, place, sorted(v for v in step if math.isfinite(v)))
    for place, step, wanted in zip(places, values, proposed or (), strict=False):
        _draw_cut(canvas, frame, place, [w for v, w in zip(step, wanted, strict=True) if v != w and math.isfinite(w)])
    return canvas.finish()


def _coloured(runs: Sequence[Series], sigmas: Sequence[float]) -> list[Series]:
    """Ordered colours for the runs; grey for one that is synchronous."""
    moving = [series for series in runs if series.low is not None or list(series.y) != list(sigmas)]
    colours = dict(zip((series.label for series in moving), ramp(len(moving)), strict=True)) if moving else {}
    return [replace(series, colour=colours.get(series.label, NEUTRAL)) for series in runs]


def _over_batch(label: str, steps: Sequence[int], values: Sequence[Sequence[float]]) -> Series:
    middle = [statistics.fmean(v) for v in values]
    if all(len(v) == 1 for v in values):
        return Series(label, steps, middle)
    return Series(label, steps, middle, low=[min(v) for v in values], high=[max(v) for v in values])


def _subtracted(sigmas: Sequence[float], series: Series) -> Series:
    def below(values: Iterable[float]) -> list[float]:
        return [s - v for s, v in zip(sigmas, values, strict=True)]

    low = None if series.high is None else below(series.high)
    high = None if series.low is None else below(series.low)
    return replace(series, y=below(series.y), low=low, high=high)


def page(
    title: str, subtitle: str, width: int, legend: Sequence[Series], rows: int = 1, height: int = PLOT_HEIGHT
) -> tuple[Canvas, int]:
    """A page for rows of plots of this height with its heading and legend, and where the first plot's frame begins."""
    lines = wrap(subtitle, SUBTITLE, width - 2 * MARGIN)
    entries = _legend_places(legend, width)
    legend_top = MARGIN + TITLE + 14 + 25 * len(lines) + (14 if legend else 0)
    lines_of_legend = 1 + max((row for _, row, _ in entries), default=-1)
    top = legend_top + lines_of_legend * 28 + 62
    canvas = Canvas(width, top + rows * height + (rows - 1) * ROW_GAP + AXIS_BOTTOM + MARGIN - 12)
    canvas.text(MARGIN, MARGIN + TITLE - 6, shorten(title, TITLE, width - 2 * MARGIN, bold=True), TITLE, bold=True)
    for number, line in enumerate(lines):
        canvas.text(MARGIN, MARGIN + TITLE + 26 + 25 * number, line, SUBTITLE, MUTED)
    for left, row, series in entries:
        _draw_legend_entry(canvas, left, legend_top + 14 + row * 28, series)
    return canvas, top


def _legend_places(series: Sequence[Series], width: int) -> list[tuple[float, int, Series]]:
    """Legend entries from left to right, and on a further row where the page ends."""
    places = []
    left, row = float(MARGIN), 0
    for entry in series:
        room = 44 + text_width(entry.label, BODY)
        if left > MARGIN and left + room > width - MARGIN:
            left, row = float(MARGIN), row + 1
        places.append((left, row, entry))
        left += room + 32
    return places


def _draw_legend_entry(canvas: Canvas, left: float, middle: float, series: Series) -> None:
    canvas.line([(left, middle), (left + 32, middle)], series.colour, 2.5, dash=6 if series.dashed else 0)
    if not series.dashed:
        canvas.dot(left + 16, middle, 4, series.colour, PAPER)
    canvas.text(left + 44, middle, series.label, BODY, INK, anchor="lm")


def _draw_plot(canvas: Canvas, plot: Plot, left: float, top: float, right: float, height: int) -> None:
    xs = [x for s in plot.series for x in s.x]
    ys = [y for s in plot.series for band in (s.y, s.low or (), s.high or ()) for y in band if math.isfinite(y)]
    low, high = min(ys, default=0.0), max(ys, default=1.0)
    y_ticks = round_ticks(min(0.0, low) if plot.include_zero else low, max(0.0, high) if plot.include_zero else high)
    counted = plot.whole_x and max(xs) - min(xs) <= MOST_COUNTED
    x_ticks = _whole_ticks(min(xs), max(xs)) if counted else round_ticks(min(xs), max(xs))
    pad = 0.03 * ((max(xs) - min(xs)) or 1.0)
    x_range = min(*xs, *x_ticks) - pad, max(*xs, *x_ticks) + pad
    frame = Frame(left, top, right, top + height, x_range, (y_ticks[0], y_ticks[-1]))
    draw_axes(
        canvas, frame, title=plot.title, x_label=plot.x_label, y_label=plot.y_label, x_ticks=x_ticks, y_ticks=y_ticks
    )
    for series in reversed(plot.series):  # the widest last γ first
        _draw_band(canvas, frame, series)
    for series in plot.series:
        _draw_line(canvas, frame, series)


def _whole_ticks(low: float, high: float) -> list[float]:
    """Whole numbers from ``low`` to ``high``, at most some sixteen of them."""
    stride = max(1, math.ceil((high - low) / 16))
    return [float(n) for n in range(math.ceil(low), math.floor(high) + 1, stride)]


def _draw_band(canvas: Canvas, frame: Frame, series: Series) -> None:
    if series.low is not None and series.high is not None and len(series.x) > 1:
        edge = frame.path(series.x, series.high) + frame.path(series.x, series.low)[::-1]
        canvas.polygon(edge, tint(series.colour, 0.16))


def _draw_line(canvas: Canvas, frame: Frame, series: Series) -> None:
    path = frame.path(series.x, series.y)
    if len(path) > 1:
        canvas.line(path, series.colour, 2.5, dash=6 if series.dashed else 0)
    if not series.dashed and len(path) <= MOST_MARKERS:
        for x, y in path:
            canvas.dot(x, y, 4, series.colour, PAPER)


def _draw_box(canvas: Canvas, frame: Frame, place: float, values: Sequence[float]) -> None:
    if not values:
        return
    colour: Colour = RAMP[2]
    (left, _), (right, _) = frame.at(place - 0.28, 0), frame.at(place + 0.28, 0)
    if len(values) >= 4:
        lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
        canvas.box(left, frame.at(place, upper)[1], right, frame.at(place, lower)[1] + 1, tint(colour, 0.18), radius=3)
    for number, value in enumerate(values):
        x, y = frame.at(place + 0.2 * _scatter(number), value)
        canvas.dot(x, y, 3.2, tint(colour, 0.62))
    middle = frame.at(place, statistics.median(values))[1]
    canvas.line([(left, middle), (right, middle)], INK, 2.5)


def _draw_cut(canvas: Canvas, frame: Frame, place: float, values: Sequence[float]) -> None:
    for number, value in enumerate(sorted(values)):
        x, y = frame.at(place + 0.2 * _scatter(number), value)
        canvas.dot(x, y, 4, PAPER, RAMP[2])


def _scatter(number: int) -> float:
    """A spread of numbers in [−1, 1] that never repeats: the golden ratio's multiples."""
    return 2 * (number * 0.6180339887 % 1) - 1
