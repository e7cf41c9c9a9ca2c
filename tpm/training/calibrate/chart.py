"""The chart of a calibration: how far the spectrum is from the teacher's, before and after."""

from __future__ import annotations

from typing import Any

from PIL import Image

from ...drawing import Series, line_chart
from ...drawing.chart import Plot
from ...drawing.theme import NEUTRAL, RAMP
from ...numbers import signed


def calibration_chart(report: dict[str, Any]) -> Image.Image:
    """The bands in a report of `Calibration`: few synchronous steps, few calibrated ones, the teacher at 0."""
    facts, cost = report["facts"], report["cost"]
    bands = list(range(1, len(report["bands"]["calibrated"]) + 1))
    names = {
        f"synchronous, {facts['steps']} steps": ("synchronous", NEUTRAL),
        f"calibrated, {facts['steps']} steps": ("calibrated", RAMP[2]),
    }
    series = [Series(name, bands, report["bands"][key], colour) for name, (key, colour) in names.items()]
    series.append(Series(f"teacher, {facts['teacher_steps']} steps", bands, [0.0] * len(bands), RAMP[0], dashed=True))
    about = "log energy minus the teacher's, in its spread over prompts"
    plot = Plot("Spectrum of the latents", "radial band, slow to fast changes", about, series, True, True)
    return line_chart(
        [plot],
        title=f"Calibrated: D = {signed(report['a'], 2)}, at the last evaluation {signed(report['last'], 2)}",
        subtitle=f"{facts['prompts']} prompts · {cost['evaluations']:,} evaluations, {cost['of the teacher']:,} of them"
        f" the teacher's · {cost['seconds']:.0f} s · experimental",
    )
