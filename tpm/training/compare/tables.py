"""The results of an evaluation as JSON, CSV and a Markdown table in the layout of the paper's tables 1 and 2."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import write_atomically, write_json
from ...numbers import minus
from ...statistics import Interval
from .arms import SYNCHRONOUS
from .evaluate import Comparison, Result
from .measure import DETAIL_ERROR

FORMAT, VERSION = "asyncdiff-evaluation", 1
SIGNIFICANT = 4  # digits
APART_HEADS = {DETAIL_ERROR: "|detail − real|"}


def save_tables(
    folder: Path, results: Sequence[Result], prompts: Sequence[str], about: Mapping[str, Any]
) -> list[Path]:
    """Write evaluation.json, evaluation.csv, evaluation.md, and scores.csv with every image's scores."""
    rows = [result.to_dict() for result in results]
    document = {"format": FORMAT, "version": VERSION, "prompts": len(prompts), "about": dict(about), "arms": rows}
    return [
        write_json(folder / "evaluation.json", document),
        _write_csv(folder / "evaluation.csv", [_flat(row) for row in rows]),
        write_atomically(folder / "evaluation.md", (markdown(results, len(prompts)) + "\n").encode()),
        _write_csv(folder / "scores.csv", _scores(results, prompts)),
    ]


def markdown(results: Sequence[Result], prompts: int) -> str:
    """A row per arm: every metric's mean with its paired difference to the best arm without a policy, D, the cost."""
    metrics, opponent = list(results[0].metrics), results[0].opponent
    compared = dict.fromkeys(name for result in results for name in result.gain.differences)
    others = [name for name in compared if name != SYNCHRONOUS]
    head = ["", *metrics, "gain", *(f"gain over {name}" for name in others), "mean D", "NFE", "s/image"]
    apart = list(results[0].apart)
    head += [*(APART_HEADS.get(name, name).replace("|", r"\|") for name in apart), "images seen"]
    lines = [_row(head), _row(["---"] * len(head))]
    lines += [_row(_cells(result, metrics, others) + _cells_apart(result, apart)) for result in results]
    note = (
        f"{prompts} prompts, the same noise in every arm. In brackets: the paired difference to {opponent}, the best"
        " arm without a policy of as many evaluations, with its 95 % bootstrap interval. Gain: over the first arm, in"
        " the metrics' standard deviations between two noises, averaged (less residual noise is better; the unit of"
        " noise is at least .25/255). Mean D is over the K − 1 actions. NFE: calls of the model for an image. Images"
        " seen: how many were judged to make the policy;"
        " arms with other numbers had other budgets."
    )
    return "\n".join([*lines, "", note])


def show(value: Comparison, opponent: str = SYNCHRONOUS) -> str:
    """The mean, and the paired difference to another arm."""
    difference = value.differences.get(opponent)
    mean = minus(f"{value.mean:.{SIGNIFICANT}g}")
    return mean if difference is None else f"{mean} ({interval(difference)})"


def interval(found: Interval) -> str:
    """The difference with its interval, to the digits that it has."""
    return f"{_signed(found.mean)} [{_signed(found.low)}, {_signed(found.high)}]"


def _cells(result: Result, metrics: Sequence[str], others: Sequence[str]) -> list[str]:
    reference = result.arm.name == SYNCHRONOUS
    gain = "0" if reference else interval(result.gain.differences[SYNCHRONOUS])
    over = [result.gain.differences.get(name) for name in others]
    return [
        result.arm.name,
        *(show(result.metrics[name], result.opponent) for name in metrics),
        gain,
        *(interval(found) if found else "–" for found in over),
        _signed(result.mean_deviation),
        str(result.evaluations),
        f"{result.seconds:.3g}",
    ]


def _cells_apart(result: Result, apart: Sequence[str]) -> list[str]:
    """What is reported beside the metrics, and the budget that the policy had."""
    seen = result.images_seen
    return [*(show(result.apart[name], result.opponent) for name in apart), "–" if seen is None else f"{seen:,}"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _signed(value: float) -> str:
    digits = 3 if abs(value) < 10 else 1
    text = f"{value:+.{digits}f}" if abs(value) >= 0.0995 else f"{value:+.{digits + 1}f}"
    return "0" if not float(text) else minus(text)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the CSV: lists as one column per step, comparisons as mean, difference, low and high."""
    flat = {name: row[name] for name in ("name", "label", "variant", "gamma", "evaluations", "seconds_per_image")}
    flat["mean_D"] = row["mean_D"]
    for metric, comparison in {"gain": row["gain"], **row["metrics"]}.items():
        flat |= _columns(metric, comparison)
    flat["D by step"] = " ".join(f"{d:.6g}" for d in row["D"])
    for metric, comparison in row["apart"].items():
        flat |= _columns(APART_HEADS.get(metric, metric), comparison)
    return flat | {"images seen": "" if row["images_seen"] is None else row["images_seen"]}


def _columns(metric: str, comparison: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison as mean, difference, low and high."""
    found = comparison["differences"].get(SYNCHRONOUS, {})
    ends = {f"{metric}: {end}": found.get(end, "") for end in ("low", "high")}
    return {f"{metric}: mean": comparison["mean"], f"{metric}: difference": found.get("mean", ""), **ends}


def _scores(results: Sequence[Result], prompts: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for result in results:
        columns = {name: values.tolist() for name, values in result.measured.scores.items()}
        for number, prompt in enumerate(prompts):
            row = {"arm": result.arm.name, "number": number, "prompt": prompt}
            rows.append(row | {name: float(f"{values[number]:.9g}") for name, values in columns.items()})
    return rows


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_atomically(path, text.getvalue().encode())
