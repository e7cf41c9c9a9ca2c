"""The table and the chart of the measurement of pixel-wise denoising."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..drawing.chart import Plot, Series, line_chart
from ..drawing.theme import NEUTRAL, RAMP
from ..errors import AsyncDiffError
from ..files import read_json, write_json
from ..numbers import minus
from ..retiming.solvers import EULER
from ..statistics import bootstrap
from .evaluate import Scores
from .pixelwise import Arm

SHOWN = ("attributes", "alignment", "all right", "detail", "noise")
NAMES = {
    "dynamic": "pixel-wise, regions of each step's attention",
    "true": "pixel-wise, true regions",
    "concave": "concave: all pixels alike",
}


def measure(
    score: Callable[[Arm], Scores], arms: Sequence[Arm], about: Mapping[str, Any], partial: Path
) -> dict[Arm, Scores]:
    """Score all arms. Those in the file `partial` are not drawn again; each is added to it.

    about: what all arms share. AsyncDiffError when the file is of another measurement.
    """
    fresh = {"about": json.loads(json.dumps(about)), "arms": {}}
    done: dict[str, Any] = read_json(partial, AsyncDiffError) if partial.exists() else fresh
    if done.get("about") != fresh["about"]:
        raise AsyncDiffError(
            f"{partial} holds a measurement that was stopped, with other options; give those again, choose another"
            " --out, or delete the file."
        )
    for arm in tqdm(arms, desc="arms"):
        if arm.key not in done["arms"]:
            done["arms"][arm.key] = {metric: values.tolist() for metric, values in score(arm).items()}
            write_json(partial, done)
    return {arm: _with_all_right(done["arms"][arm.key]) for arm in arms}


def _with_all_right(values: Mapping[str, list[float]]) -> Scores:
    scores = {metric: np.array(numbers) for metric, numbers in values.items()}
    return scores | {"all right": (scores["attributes"] == 1).astype(float)}


def report(arms: dict[Arm, Scores]) -> list[dict[str, Any]]:
    """One row an arm: means, and paired differences with 95 % intervals.

    To: the synchronous arm of Euler, the best synchronous arm without a policy, the concave arm of the setting, and
    the synchronous arm under the same policy.
    """
    return [asdict(arm) | {metric: cells(arms, arm, metric) for metric in SHOWN} for arm in arms]


def cells(arms: dict[Arm, Scores], arm: Arm, metric: str) -> dict[str, Any]:
    """One metric of one arm, in its own unit."""
    found = {"mean": asdict(bootstrap(arms[arm][metric]))}
    others = {
        "synchronous": Arm("synchronous", arm.steps),
        "best": best_of(arms, arm.steps),
        "concave": replace(arm, kind="concave", threshold=1.0) if arm.kind != "synchronous" else arm,
    }
    if arm.policy is not None:
        others["policy"] = Arm("synchronous", arm.steps, policy=arm.policy)
    for name, other in others.items():
        if other in arms and other != arm:
            found[f"to_{name}"] = asdict(bootstrap(arms[arm][metric] - arms[other][metric]))
    return found


def best_of(arms: dict[Arm, Scores], steps: int) -> Arm:
    """The synchronous arm of so many steps, without a policy, that shows most of what captions ask for."""
    plain = [arm for arm in arms if (arm.kind, arm.steps, arm.policy) == ("synchronous", steps, None)]
    return max(plain, key=lambda arm: arms[arm]["attributes"].mean())


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The attributes as a table in per cent, and the noise."""
    columns = ["steps", "arm", "k", "curve", "attributes, %", "to synchronous Euler", "to the best synchronous"]
    columns += ["to concave", "to the policy alone", "all right, %", "dots/1k px", "noise, /255"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        plain = row["kind"] == "synchronous"
        setting = ["", ""] if plain else [f"{row['strength']:g}", row["curve"]]
        name = ", ".join(part for part in (row["kind"], "" if row["solver"] == EULER else row["solver"]) if part)
        name += f", threshold {row['threshold']:g}" if row["threshold"] != 1 else ""
        name += f" + {row['policy']}" if row["policy"] else ""
        parts = ("mean", "to_synchronous", "to_best", "to_concave", "to_policy")
        attributes = [show(row["attributes"].get(part), 100) for part in parts]
        others = [f"{row['all right']['mean']['mean'] * 100:.1f}", f"{row['detail']['mean']['mean']:.2f}"]
        values = [str(row["steps"]), name, *setting, *attributes, *others, f"{row['noise']['mean']['mean']:.3f}"]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


def show(interval: dict[str, float] | None, scale: float) -> str:
    """Mean and interval; nothing where there is none."""
    if interval is None:
        return ""
    mean, low, high = (round(interval[part] * scale, 2) + 0.0 for part in ("mean", "low", "high"))  # no −0.00
    return minus(f"{mean:.2f} [{low:.2f}, {high:.2f}]")


def chart(rows: Sequence[dict[str, Any]], title: str, subtitle: str) -> Image.Image:
    """Paired differences to the synchronous sampler over k, on the curve of the first slowed row."""
    plots = [
        Plot(name, "strength k (0 is the synchronous sampler)", "points", [line(rows, kind, metric) for kind in NAMES])
        for metric, name in (("attributes", "Attributes found"), ("alignment", "Their mean probability"))
    ]
    return line_chart(plots, title=title, subtitle=subtitle)


def line(rows: Sequence[dict[str, Any]], kind: str, metric: str) -> Series:
    """One kind's differences at the first number of steps, in points, with their intervals."""
    steps, curve = rows[0]["steps"], next(row["curve"] for row in rows if row["kind"] != "synchronous")
    same = {"steps": steps, "kind": kind, "curve": curve, "policy": None}
    threshold = next((row["threshold"] for row in rows if row["kind"] == kind), 1.0)
    wanted = [row for row in rows if row["threshold"] == threshold and same.items() <= row.items()]
    points = {0.0: dict.fromkeys(("mean", "low", "high"), 0.0)}
    points |= {row["strength"]: row[metric]["to_synchronous"] for row in wanted}
    found = [points[k] for k in sorted(points)]
    mean, low, high = ([100 * each[part] for each in found] for part in ("mean", "low", "high"))
    colour = {"concave": NEUTRAL, "dynamic": RAMP[2], "true": RAMP[0]}[kind]
    return Series(NAMES[kind], sorted(points), mean, colour, kind == "concave", low, high)
