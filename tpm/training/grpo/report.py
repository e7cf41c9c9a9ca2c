"""What a training run looks like: a picture and a self-contained page, drawn from its journal."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...drawing import Series
from ...drawing.chart import Plot, line_chart
from ...drawing.png import as_png
from ...drawing.theme import NEUTRAL, PAPER, RAMP, ramp
from ...errors import AsyncDiffError
from ...files import write_atomically
from .journal import read_journal
from .trainer import JOURNAL

PNG, PAGE = "report.png", "report.html"
POINTS = 240  # the most in a line; iterations in between are averaged
COLUMNS = 3
FEW = 10  # iterations below which every one has a tick

Records = Sequence[Mapping[str, Any]]
Reader = Callable[[Mapping[str, Any]], Any]


class ReportError(AsyncDiffError):
    """There is nothing to report."""


def write_report(folder: Path) -> list[Path]:
    """Write report.png and report.html (no script, nothing from the net) into a run's folder. Raises ReportError."""
    records = read_journal(folder / JOURNAL)
    if not records:
        raise ReportError(f"There is no iteration in {folder / JOURNAL} to report on; train first.")
    sheets = draw_report(records)
    picture = write_atomically(folder / PNG, as_png(_stacked(sheets), small=True))
    return [picture, write_atomically(folder / PAGE, _page(folder.name, records, sheets).encode())]


def draw_report(records: Records) -> list[Image.Image]:
    """The sheets: what was earned, what was decided, how it was learned, where the time went."""
    groups = {
        "Scores": (_scores(records), "Means over the iteration's images; the gain is paired with the same noises."),
        "Deviation": (_deviation(records), "D of each step over the iteration's trajectories."),
        "Learning": (_learning(records), "Of the updates of each iteration."),
        "Noise and time": (_running(records), "Noise of the comparison's images; shares of the wall time."),
    }
    sheets = []
    for title, (plots, subtitle) in groups.items():
        filled = [plot for plot in plots if plot.series]
        if filled:
            legend, columns = len(filled[0].series) > 1, min(COLUMNS, len(filled))
            sheets.append(line_chart(filled, title=title, subtitle=subtitle, columns=columns, legend=legend))
    return sheets


# --- plots ------------------------------------------------------------------------------------------------------------


def _scores(records: Records) -> list[Plot]:
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    plots = [_plot(name, [_line(records, name, _inside("metrics", name))]) for name in names]
    gain = _line(records, "gain over synchronous", _inside("probe", "gain"))
    return [_plot("Gain over synchronous", [gain], zero=True), *plots]


def _deviation(records: Records) -> list[Plot]:
    steps = max(len(record["D"]) for record in records)
    colours = ramp(steps)
    columns = {"D": "Mean D of each step", "D_std": "Standard deviation of D"}
    plots = [
        _plot(title, [_line(records, f"step {k + 1}", _entry(key, k), colours[k]) for k in range(steps)], zero=True)
        for key, title in columns.items()
    ]
    limits = {"at_bound": "at the bound", "clamped": "clamped"}
    return [*plots, _plot("Share of actions", _lines(records, limits), zero=True, note="at the bound, clamped (grey)")]


def _learning(records: Records) -> list[Plot]:
    return [
        _plot("Entropy a step, nats", _lines(records, {"entropy": "entropy"})),
        _plot("α + β", _lines(records, {"concentration": "α + β"})),
        _plot("Gradient norm", _lines(records, {"gradient_norm": "gradient norm"}), zero=True),
        _plot("Ratio π / π_old", _lines(records, {"ratio_max": "", "ratio_min": ""}), note="largest, smallest (grey)"),
        _plot("Clip fraction", _lines(records, {"clip_fraction": "clipped"}), zero=True),
        _plot("Approximate KL", _lines(records, {"kl": "KL"}), zero=True),
        _plot("Learning rate", _lines(records, {"learning_rate": "learning rate"}), zero=True),
        _plot("Minibatches left out", _lines(records, {"left": "left out"}), zero=True),
    ]


def _running(records: Records) -> list[Plot]:
    noise = {"noise": "TPM", "synchronous_noise": "synchronous"}
    lines = [_line(records, title, _inside("probe", key)) for key, title in noise.items()]
    names = list(dict.fromkeys(name for record in records for name in record.get("time", {})))
    shares = [
        _line(records, name, _inside("time", name), colour)
        for name, colour in zip(names, ramp(max(len(names), 1)), strict=False)
    ]
    return [
        _plot("Share of the wall time", [line for line in shares if line], zero=True),
        _plot("Noise, /255", _recoloured([line for line in lines if line]), zero=True, note="synchronous in grey"),
        _plot("Seconds an iteration", _lines(records, {"seconds": "seconds"}), zero=True),
    ]


def _plot(title: str, lines: Sequence[Series | None], zero: bool = False, note: str = "") -> Plot:
    there = [line for line in lines if line is not None]
    last = max((line.x[-1] for line in there), default=0)
    return Plot(title, "iteration", note, there, whole_x=last <= FEW, include_zero=zero)


def _lines(records: Records, names: Mapping[str, str]) -> list[Series]:
    lines = [_line(records, title, _value(name)) for name, title in names.items()]
    return _recoloured([line for line in lines if line])


def _recoloured(lines: Sequence[Series]) -> list[Series]:
    colours = (RAMP[2], NEUTRAL)
    return [
        Series(s.label, s.x, s.y, colour, low=s.low, high=s.high) for s, colour in zip(lines, colours, strict=False)
    ]


def _line(records: Records, label: str, read: Reader, colour: tuple[int, int, int] = RAMP[2]) -> Series | None:
    """A value over iterations, averaged to `POINTS` points with the range between as a band; None without a value."""
    points = [(record["iteration"], value) for record in records if (value := read(record)) is not None]
    if not points:
        return None
    size = -(-len(points) // POINTS)
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    x, y = ([sum(point[axis] for point in part) / len(part) for part in bins] for axis in (0, 1))
    if size == 1:
        return Series(label, x, y, colour)
    low, high = ([edge(value for _, value in part) for part in bins] for edge in (min, max))
    return Series(label, x, y, colour, low=low, high=high)


def _entry(key: str, k: int) -> Reader:
    return lambda record: record[key][k] if k < len(record[key]) else None


def _value(key: str) -> Reader:
    return lambda record: record.get(key)


def _inside(key: str, name: str) -> Reader:
    """A value of a record's part, which may be missing."""
    return lambda record: (record.get(key) or {}).get(name)


# --- files ------------------------------------------------------------------------------------------------------------


def _stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    page = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), PAPER)
    top = 0
    for sheet in sheets:
        page.paste(sheet, (0, top))
        top += sheet.height
    return page


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #181c23; max-width: 1480px; margin: 2rem auto; padding: 0 1rem }
img { max-width: 100%; height: auto; display: block }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem 1rem .25rem 0; text-align: right; border-bottom: 1px solid #e5e8ec }
td:first-child, th:first-child { text-align: left }
.problem { color: #96452d }
"""


def _page(name: str, records: Records, sheets: Sequence[Image.Image]) -> str:
    pictures = "\n".join(
        f'<img alt="" src="data:image/png;base64,{base64.b64encode(as_png(sheet)).decode()}">' for sheet in sheets
    )
    title = html.escape(f"Training of {name}")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>
<body><h1>{title}</h1>
{_summary(records)}
{_latest_probe(records)}
{pictures}
</body></html>
"""


def _summary(records: Records) -> str:
    images = sum(record.get("trajectories", 0) for record in records)
    hours = sum(record.get("seconds", 0.0) for record in records) / 3600
    problems = [record["problem"] for record in records if record.get("problem")]
    text = f"<p>{records[-1]['iteration']} iterations, {images:,} trajectories, {hours:.2f} hours.</p>"
    if problems:
        text += f'<p class="problem">{len(problems)} taught nothing; the last: {html.escape(problems[-1])}</p>'
    return text


def _latest_probe(records: Records) -> str:
    """The latest comparison with the synchronous sampler as a table."""
    found = [(record["iteration"], record["probe"]) for record in records if record.get("probe")]
    if not found:
        return ""
    iteration, probe = found[-1]
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:.4g}</td><td>{probe['paired'].get(name, 0.0):+.4g}</td></tr>"
        for name, value in probe["metrics"].items()
    )
    gain = "" if probe["gain"] is None else f"<p>Gain: {probe['gain']:+.3f} of a metric's usual deviation.</p>"
    head = "<tr><th>metric</th><th>TPM</th><th>difference</th></tr>"
    return f"<h2>Against the synchronous sampler, iteration {iteration}</h2>{gain}<table>{head}{rows}</table>"
