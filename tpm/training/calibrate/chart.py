"""The chart of a calibration: how far the spectrum is from the teacher's, before and after."""

from __future__ import annotations

from typing import Any

from PIL import Image

from ...drawing import Series, line_chart
from ...drawing.chart import Plot
from ...drawing.theme import NEUTRAL, RAMP
from ...numbers import signed

WIDTH, HEIGHT = 1000, 380  # narrow, so that its text can be read in a node


def calibration_chart(report: dict[str, Any]) -> Image.Image:
    """The bands in a report of `Calibration`: few synchronous steps, few calibrated ones, the teacher at 0."""
    facts, cost = report["facts"], report["cost"]
    bands = list(range(1, len(report["bands"]["calibrated"]) + 1))
    names = {
        f"before: {facts['steps']} synchronous steps": ("synchronous", NEUTRAL),
        f"after: {facts['steps']} steps with the policy": ("calibrated", RAMP[2]),
    }
    series = [Series(name, bands, report["bands"][key], colour) for name, (key, colour) in names.items()]
    teacher = f"teacher: {facts['teacher_steps']} synchronous steps"
    series.append(Series(teacher, bands, [0.0] * len(bands), RAMP[0], dashed=True))
    about = "log energy compared with the teacher's, in its spread over prompts"
    across = "from slow changes (composition) to fast changes (fine detail)"
    plot = Plot("How much the latents vary", across, about, series, True, True)
    return line_chart(
        [plot],
        title=f"The timestep is moved by D = {signed(report['a'], 2)}, at the end by {signed(report['last'], 2)}",
        subtitle=f"{facts['prompts']} prompts · {cost['evaluations']:,} evaluations, {cost['of the teacher']:,} of them"
        f" the teacher's · {cost['seconds']:.0f} s · experimental",
        width=WIDTH,
        height=HEIGHT,
    )
