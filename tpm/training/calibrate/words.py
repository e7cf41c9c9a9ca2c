"""What a calibration found and cost, in sentences."""

from __future__ import annotations

from typing import Any

from ...numbers import signed

NEGATIVE = (
    "D is negative: few steps of this solver have more energy than the teacher. On the embedded pipeline such a policy"
    " made pictures worse; compare it with γ = 0 before you use it."
)


def found_and_cost(report: dict[str, Any]) -> list[str]:
    """Lines about a report of `Calibration`."""
    far, cost, many = report["distance"], report["cost"], report["facts"]["teacher_steps"]
    found = f"D = {signed(report['a'], 3)} at every step, {signed(report['last'], 3)} at the last evaluation."
    distance = (
        f"Distance of the spectrum to the run of {many} steps: {far['synchronous']:.3g} synchronous,"
        f" {far['calibrated']:.3g} calibrated."
    )
    effort = (
        f"{cost['evaluations']:,} evaluations, {cost['of the teacher']:,} of them the teacher's,"
        f" {cost['seconds']:.0f} s. Experimental: whether the pictures are better, only a comparison tells."
    )
    return [found, distance, effort]


def warning(report: dict[str, Any]) -> str:
    """A sentence where what was found is known to do harm, else ""."""
    return NEGATIVE if report["a"] < 0 else ""
