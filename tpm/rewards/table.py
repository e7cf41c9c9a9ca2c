"""The table of scores: one row per image, CSV or JSON, resumable, written atomically."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import check_header, read_json, write_atomically, write_json
from .base import RewardError, some
from .folder import Item

FORMAT, VERSION = "asyncdiff-scores", 1
REWARD = "R"
_KEYS = ("file", "prompt", "digest")
_WEIGHTS = " weights"
"""After a metric's name: the column that says what its scores were computed with."""


class Table:
    """Scores by row and metric. Opening an existing file keeps the scores whose image and prompt are unchanged."""

    def __init__(self, path: Path, items: Sequence[Item]) -> None:
        if path.suffix.lower() not in (".csv", ".json"):
            raise RewardError(f"{path} must end in .csv or .json.")
        self.path = path
        self.means: dict[str, dict[str, float]] = {}
        self.weights: dict[str, str] = {}
        self.rows: list[dict[str, Any]] = [_row(item) for item in items]
        if path.exists():
            self._take_over(*_read(path))

    def claim(self, metric: str, weights: str) -> None:
        """Say what the scores of ``metric`` are computed with (`catalogue.fingerprint`), before any is entered.

        Raises RewardError where the table has scores that were computed with something else.
        """
        known = self.weights.get(metric, "unknown weights")
        if known != weights and any(metric in row for row in self.rows):
            raise RewardError(
                f"{self.path} has {metric} scores from other weights or another precision ({known}, now {weights});"
                " choose another --out, or give the same weights and --dtype."
            )
        self.weights[metric] = weights

    def missing(self, metric: str) -> list[int]:
        """The rows that have no score of ``metric``."""
        return [number for number, row in enumerate(self.rows) if metric not in row]

    def put(self, metric: str, number: int, value: float) -> None:
        """Enter a score, to the nine digits that a float32 has."""
        self.rows[number][metric] = float(f"{value:.9g}")

    def column(self, metric: str) -> list[float]:
        """All scores of ``metric``, which must be complete."""
        return [row[metric] for row in self.rows]

    def save(self) -> Path:
        """Write everything that is known so far; the file is old or new, never half."""
        if self.path.suffix.lower() == ".csv":
            return write_atomically(self.path, _as_csv(self.rows, self.weights).encode())
        head = {"format": FORMAT, "version": VERSION, "weights": self.weights, "means": self.means}
        return write_json(self.path, head | {"rows": self.rows})

    def _take_over(self, found: Sequence[Mapping[str, Any]], weights: Mapping[str, str]) -> None:
        ours = {row["file"] for row in self.rows}
        foreign = [row["file"] for row in found if row["file"] not in ours]
        if foreign:
            raise RewardError(f"{self.path} has rows of other images ({some(foreign)}); choose another --out.")
        known = {tuple(row[key] for key in _KEYS): row for row in found}
        for row in self.rows:
            old = known.get(tuple(row[key] for key in _KEYS), {})
            row.update({key: value for key, value in old.items() if key not in (*_KEYS, REWARD)})
        self.weights = dict(weights)


def _row(item: Item) -> dict[str, Any]:
    return {"file": item.name, "prompt": item.prompt, "digest": item.digest()}


def _as_csv(rows: Sequence[Mapping[str, Any]], weights: Mapping[str, str]) -> str:
    columns = dict.fromkeys([*_KEYS, *(key for row in rows for key in row if key != REWARD)])
    if any(REWARD in row for row in rows):
        columns[REWARD] = None
    columns |= dict.fromkeys(metric + _WEIGHTS for metric in weights if metric in columns)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({**row, **_told(row, weights)} for row in rows)
    return text.getvalue()


def _told(row: Mapping[str, Any], weights: Mapping[str, str]) -> dict[str, str]:
    return {metric + _WEIGHTS: text for metric, text in weights.items() if metric in row}


def _read(path: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows and weights of a table that this project wrote; for anything else a RewardError: nothing is overwritten."""
    try:
        rows, weights = _read_csv(path) if path.suffix.lower() == ".csv" else _read_json(path)
        return [_checked(row) for row in rows], weights
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as cause:
        raise RewardError(f"{path} exists and is not a table of scores ({cause}); choose another --out.") from cause


def _read_csv(path: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = tuple(reader.fieldnames or ())
        if columns[: len(_KEYS)] != _KEYS:
            raise ValueError(f"its first columns are not {', '.join(_KEYS)}")
        rows = list(reader)
    named = [column for column in columns if column.endswith(_WEIGHTS)]
    told = {column: {row.pop(column) for row in rows} - {"", None} for column in named}
    if any(len(values) > 1 for values in told.values()):
        raise ValueError("it has scores of one metric from several weights")
    return rows, {column.removesuffix(_WEIGHTS): values.pop() for column, values in told.items() if values}


def _read_json(path: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    document = read_json(path, RewardError)
    check_header(document, FORMAT, VERSION, RewardError, str(path))
    weights = {str(metric): str(text) for metric, text in document.get("weights", {}).items()}
    return [dict(row) for row in document["rows"]], weights


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Text in the key columns, finite numbers elsewhere; empty cells are scores that are still missing."""
    scores = {key: float(value) for key, value in row.items() if key not in _KEYS and value not in ("", None)}
    if not all(math.isfinite(value) for value in scores.values()):
        raise ValueError("it has a score that is not finite")
    return {key: str(row[key]) for key in _KEYS} | scores
