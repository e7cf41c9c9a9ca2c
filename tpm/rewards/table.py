"""The table of scores: one row per image, CSV or JSON, resumable, written atomically."""

from __future__ import annotations

import csv
import io
import json
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


class Table:
    """Scores by row and metric. Opening an existing file keeps the scores whose image and prompt are unchanged."""

    def __init__(self, path: Path, items: Sequence[Item]) -> None:
        if path.suffix.lower() not in (".csv", ".json"):
            raise RewardError(f"{path} must end in .csv or .json.")
        self.path = path
        self.means: dict[str, dict[str, float]] = {}
        self.rows: list[dict[str, Any]] = [_row(item) for item in items]
        if path.exists():
            self._take_over(_read(path))

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
            return write_atomically(self.path, _as_csv(self.rows).encode())
        head = {"format": FORMAT, "version": VERSION, "means": self.means}
        return write_json(self.path, head | {"rows": self.rows})

    def _take_over(self, found: Sequence[Mapping[str, Any]]) -> None:
        ours = {row["file"] for row in self.rows}
        foreign = [row["file"] for row in found if row["file"] not in ours]
        if foreign:
            raise RewardError(f"{self.path} has rows of other images ({some(foreign)}); choose another --out.")
        known = {tuple(row[key] for key in _KEYS): row for row in found}
        for row in self.rows:
            old = known.get(tuple(row[key] for key in _KEYS), {})
            row.update({key: value for key, value in old.items() if key not in (*_KEYS, REWARD)})


def _row(item: Item) -> dict[str, Any]:
    return {"file": item.name, "prompt": item.prompt, "digest": item.digest()}


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = dict.fromkeys([*_KEYS, *(key for row in rows for key in row if key != REWARD)])
    if any(REWARD in row for row in rows):
        columns[REWARD] = None
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a table that this project wrote; anything else is a RewardError, so that nothing is overwritten."""
    try:
        rows = _read_csv(path) if path.suffix.lower() == ".csv" else _read_json(path)
        return [_checked(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as cause:
        raise RewardError(f"{path} exists and is not a table of scores ({cause}); choose another --out.") from cause


def _read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ())[: len(_KEYS)] != _KEYS:
            raise ValueError(f"its first columns are not {', '.join(_KEYS)}")
        return list(reader)


def _read_json(path: Path) -> list[dict[str, Any]]:
    document = read_json(path, RewardError)
    check_header(document, FORMAT, VERSION, RewardError, str(path))
    rows: list[dict[str, Any]] = json.loads(json.dumps(document["rows"]))
    return rows


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Text in the key columns, finite numbers elsewhere; empty cells are scores that are still missing."""
    scores = {key: float(value) for key, value in row.items() if key not in _KEYS and value not in ("", None)}
    if not all(math.isfinite(value) for value in scores.values()):
        raise ValueError("it has a score that is not finite")
    return {key: str(row[key]) for key in _KEYS} | scores
