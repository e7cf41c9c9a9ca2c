"""What is measured on a panel: per image, per γ, and the paired difference to the synchronous column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...numbers import signed
from ...statistics import Interval, bootstrap
from ..shared.tables import as_text
from .sweep import Column, Job


@dataclass(frozen=True)
class Measure:
    """How one of the judge's values is shown."""

    key: str
    unit: str
    scale: float = 1.0
    digits: int = 1

    def show(self, value: float) -> str:
        """The value without its unit."""
        return f"{value * self.scale:.{self.digits}f}"

    def show_difference(self, difference: float, interval: Interval | None) -> str:
        """The paired difference, with its 95 % interval where there is one."""
        text = signed(difference * self.scale, self.digits)
        if interval is None:
            return text
        low, high = (signed(end * self.scale, self.digits) for end in (interval.low, interval.high))
        return f"{text} [{low}, {high}]"


MEASURES = (
    Measure("attributes", "%", 100.0, 0),
    Measure("detail", "dots/1k px"),
    Measure("noise", "/255", digits=2),
)


@dataclass(frozen=True)
class Summary:
    """One measurement at one γ: its mean over the rows, and how far that is from the synchronous column."""

    measure: Measure
    mean: float
    difference: float | None = None
    interval: Interval | None = None

    def show(self) -> str:
        """Mean and difference, without the unit."""
        text = self.measure.show(self.mean)
        if self.difference is None:
            return text
        return f"{text}  {self.measure.show_difference(self.difference, self.interval)}"


def known(column: Column) -> list[Measure]:
    """The measures that were taken, in the order of showing."""
    return [measure for measure in MEASURES if measure.key in column.scores]


def summarise(column: Column, synchronous: Column | None) -> list[Summary]:
    """Means of a column; differences where ``synchronous`` is another column, intervals from two rows on."""
    summaries = []
    for measure in known(column):
        values = column.scores[measure.key].double()
        if synchronous is None or synchronous is column:
            summaries.append(Summary(measure, float(values.mean())))
            continue
        difference = values - synchronous.scores[measure.key].double()
        interval = bootstrap(difference.numpy()) if len(difference) > 1 else None
        summaries.append(Summary(measure, float(values.mean()), float(difference.mean()), interval))
    return summaries


def synchronous_column(columns: Sequence[Column]) -> Column | None:
    """The column with γ = 0, if there is one."""
    return next((column for column in columns if column.gamma == 0), None)


def text_table(columns: Sequence[Column]) -> str:
    """The table for the terminal."""
    reference = synchronous_column(columns)
    rows = []
    for column in columns:
        cells = [f"{column.gamma:g}", signed(column.mean_deviation(), 3)]
        cells += [summary.show() for summary in summarise(column, reference)]
        rows.append([*cells, f"{column.seconds / len(column.images):.2f}"])
    named = [f"{measure.key} {measure.unit}" for measure in known(columns[0])]
    return as_text(["γ", "mean D", *named, "s/image"], rows)


def csv_rows(columns: Sequence[Column]) -> list[dict[str, object]]:
    """The same table as data, one mapping per γ."""
    reference = synchronous_column(columns)
    return [_csv_row(column, reference) for column in columns]


def _csv_row(column: Column, reference: Column | None) -> dict[str, object]:
    row: dict[str, object] = {
        "gamma": column.gamma,
        "images": len(column.images),
        "mean_deviation": round(column.mean_deviation(), 6),
        "seconds_per_image": round(column.seconds / len(column.images), 4),
    }
    for summary in summarise(column, reference):
        key = summary.measure.key
        row[f"{key}_mean"] = round(summary.mean, 6)
        row[f"{key}_difference"] = "" if summary.difference is None else round(summary.difference, 6)
        row[f"{key}_low"] = "" if summary.interval is None else round(summary.interval.low, 6)
        row[f"{key}_high"] = "" if summary.interval is None else round(summary.interval.high, 6)
    return row


def image_rows(
    columns: Sequence[Column], jobs: Sequence[Job], names: Sequence[Sequence[str]]
) -> list[dict[str, object]]:
    """One mapping per image: where it is, what it is, what was measured. ``names`` is per column, per row."""
    rows: list[dict[str, object]] = []
    for column, files in zip(columns, names, strict=True):
        for number, (job, name) in enumerate(zip(jobs, files, strict=True)):
            row: dict[str, object] = {"file": name, "gamma": column.gamma, "seed": job.seed, "prompt": job.prompt}
            rows.append(row | {key: round(float(values[number]), 6) for key, values in column.scores.items()})
    return rows
