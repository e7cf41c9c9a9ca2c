"""How a training or a search is going: charts of its records, small while it runs and wide when it is over."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from .chart import Plot, Series, line_chart
from .theme import NEUTRAL, RAMP, ramp

Record = Mapping[str, Any]

SMOOTHING = 0.9
MOST_POINTS = 400
NARROW, LOW, WIDE, HIGH = 600, 150, 1560, 300
"""Pixels: width and height of a plot's frame, of the small chart and of the wide one."""


def draw_live(plots: Sequence[Plot], title: str) -> Image.Image:
    """A narrow page, one plot below the other, for a node."""
    return line_chart(plots, title=title, width=NARROW, height=LOW, columns=1)


def draw_report(plots: Sequence[Plot], title: str, subtitle: str) -> Image.Image:
    """A wide page, the plots side by side."""
    return line_chart(plots, title=title, subtitle=subtitle, width=WIDE, height=HIGH)


# ------------------------------------------------------------------------------------------------------- training


def training_plots(records: Sequence[Record]) -> list[Plot]:
    """Scores, the gain over the synchronous sampler where it was measured, and D per step, of at least one iteration.

    Scores are running means, less their mean over the first ten iterations, in standard deviations of an iteration's
    mean: every iteration has other prompts.
    """
    plots = [
        Plot(
            "Scores",
            "iteration",
            "running mean, in standard deviations",
            _scores(records),
            whole_x=True,
            include_zero=True,
        )
    ]
    probes = [record for record in records if (record.get("probe") or {}).get("gain") is not None]
    if probes:
        gain = Series("", [r["iteration"] for r in probes], [r["probe"]["gain"] for r in probes], RAMP[3])
        plots.append(
            Plot(
                "Gain over synchronous", "iteration", "in standard deviations", [gain], whole_x=True, include_zero=True
            )
        )
    first, last = records[0]["D"], records[-1]["D"]
    steps = list(range(1, len(last) + 1))
    low, high = ([d + side * s for d, s in zip(last, records[-1]["D_std"], strict=True)] for side in (-1, 1))
    now = Series("now", steps, last, RAMP[2], low=low, high=high)
    before = Series("at first", steps, first, NEUTRAL, dashed=True)
    about = f"mean ± spread; dashed: iteration {records[0]['iteration']}"
    plots.append(Plot("Deviation (D)", "step", about, [before, now], whole_x=True, include_zero=True))
    return plots


def _scores(records: Sequence[Record]) -> list[Series]:
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    colours = dict(zip(names, ramp(len(names)), strict=True)) if names else {}
    lines = []
    for name in names:
        told = [(r["iteration"], r["metrics"][name]) for r in records if name in r["metrics"]]
        places, values = zip(*told, strict=True)
        stride = -(-len(places) // MOST_POINTS)
        change = standardised(values)
        lines.append(Series(name, places[::-stride][::-1], change[::-stride][::-1], colours[name]))
    return lines or [Series("", [records[-1]["iteration"]], [0.0])]


def standardised(values: Sequence[float]) -> list[float]:
    """Running means, less the mean of the first ten values, in standard deviations of the values."""
    spread = statistics.pstdev(values)
    start = statistics.fmean(values[:10])
    return [(mean - start) / spread if spread else 0.0 for mean in _running(values)]


def _running(values: Iterable[float]) -> Iterable[float]:
    """Exponential means, without a bias towards the first value."""
    total = weight = 0.0
    for value in values:
        total, weight = SMOOTHING * total + value, SMOOTHING * weight + 1
        yield total / weight


# --------------------------------------------------------------------------------------------------------- search


def search_plots(records: Sequence[Record], knots: Sequence[float]) -> list[Plot]:
    """Gains of the generations and of the constants, and what is believed of the curve; σ of its knots."""
    constants = [record for record in records if record["stage"] == "constants"]
    generations = [record for record in records if record["stage"] == "generation"]
    plots = [_generations(generations), _curve(generations[-1], knots)] if generations else []
    if constants:
        plots.append(_constants(constants))
    return plots


def _generations(rows: Sequence[Record]) -> Plot:
    places = [row["generation"] for row in rows]
    lines = [
        Series(name, places, [row[name] for row in rows], colour)
        for name, colour in zip(("centre", "elite", "best"), (RAMP[3], RAMP[2], RAMP[0]), strict=True)
    ]
    return Plot("Gain over synchronous", "generation", "in standard deviations", lines, whole_x=True, include_zero=True)


def _curve(row: Record, knots: Sequence[float]) -> Plot:
    low, high = ([d + side * s for d, s in zip(row["mean"], row["std"], strict=True)] for side in (-1, 1))
    line = Series("", knots, row["mean"], RAMP[2], low=low, high=high)
    return Plot(
        "The curve",
        "noise level σ of the latent",
        "deviation D, mean ± spread of the search",
        [line],
        include_zero=True,
    )


def _constants(rows: Sequence[Record]) -> Plot:
    """A line for each number of last steps that run synchronously; all start at D = 0."""
    zero = [row for row in rows if not row["D"]]
    tails = sorted({row["tail_sync"] for row in rows if row["D"]}) or [0]
    lines = []
    for tail, colour in zip(tails, ramp(len(tails)), strict=True):
        ordered = zero + sorted((row for row in rows if row["D"] and row["tail_sync"] == tail), key=_deviation)
        gains = [row["gain"] for row in ordered]
        low, high = ([row["gain"] + side * row["error"] for row in ordered] for side in (-1, 1))
        name = "constants" if not tail else f"last {tail} synchronous"
        lines.append(Series(name, [row["D"] for row in ordered], gains, colour, low=low, high=high))
    return Plot("Constants", "deviation D", "gain ± standard error", lines, include_zero=True)


def _deviation(row: Record) -> float:
    return float(row["D"])
