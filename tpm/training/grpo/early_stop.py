"""Reasons to stop a run early, each a sentence. `history` is the list of an iteration's records so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from .recipe import Recipe

RATIO_TOLERANCE = 1e-4
AT_BOUND = 0.95  # |D| above this part of the bound counts as at the bound
PATIENCE = 20  # iterations without any signal
HACKING_WINDOW = 200
PERCEPTUAL, SEMANTIC = ("image-reward", "hps-v2", "hps-v2.1"), ("clip-score", "pick-score")

Record = Mapping[str, Any]


def reason_to_stop(history: Sequence[Record], recipe: Recipe) -> str | None:
    """The first reason there is, or None."""
    reasons = (
        _ratio(history),
        _no_signal(history),
        _noise(history, recipe),
        _drift(history, recipe),
        _hacking(history),
    )
    return next((reason for reason in reasons if reason), None)


def _ratio(history: Sequence[Record]) -> str | None:
    error = history[-1].get("first_ratio_error", 0.0)
    if error > RATIO_TOLERANCE:
        return (
            f"The TPM's probabilities changed by {error:.1e} between sampling and learning, although its weights did"
            " not. Use float32, and the same device for both."
        )
    return None


def _no_signal(history: Sequence[Record]) -> str | None:
    recent = history[-PATIENCE:]
    if len(recent) < PATIENCE or any(record["signal"] for record in recent):
        return None
    return (
        f"The reward told nothing apart for {PATIENCE} iterations (constant or not finite); check the metrics and their"
        " weights."
    )


def _noise(history: Sequence[Record], recipe: Recipe) -> str | None:
    probe = history[-1].get("probe")
    if probe and probe["noise"] > recipe.noise_limit * max(probe["synchronous_noise"], 0.5):
        return (
            f"Residual noise is {probe['noise'] / max(probe['synchronous_noise'], 0.5):.2f} times that of the"
            f" synchronous images (limit {recipe.noise_limit:g}): the reward does not see it. Add the residual-noise"
            " metric, or set tail_sync = 1."
        )
    return None


def _drift(history: Sequence[Record], recipe: Recipe) -> str | None:
    record = history[-1]
    if record["iteration"] < recipe.drift_before and record.get("at_bound", 0.0) > AT_BOUND:
        return (
            f"D reached its bound in iteration {record['iteration']}, before {recipe.drift_before}: lower the learning"
            " rate, or lift the bound."
        )
    return None


def _hacking(history: Sequence[Record]) -> str | None:
    """Perceptual metrics rise while both semantic ones fall."""
    window = [record["metrics"] for record in history[-HACKING_WINDOW:] if record["signal"]]
    if len(window) < HACKING_WINDOW:
        return None
    rising = [name for name in PERCEPTUAL if name in window[0] and _slope(window, name) > 0]
    falling = [name for name in SEMANTIC if name in window[0] and _slope(window, name) < 0]
    if rising and len(falling) == len(SEMANTIC):
        return (
            f"Over {HACKING_WINDOW} iterations {' and '.join(rising)} rose while {' and '.join(falling)} fell: the"
            " policy is learning what the metrics overlook. Use the checkpoint before, or change the weights."
        )
    return None


def _slope(window: Sequence[Mapping[str, float]], name: str) -> float:
    """Change of a metric over the window in its own standard errors; 0 where it is below two of them."""
    values = [metrics[name] for metrics in window]
    middle, average = (len(values) - 1) / 2, fmean(values)
    spread = sum((i - middle) ** 2 for i in range(len(values)))
    slope = sum((i - middle) * (value - average) for i, value in enumerate(values)) / spread
    residual = fmean([(value - average - slope * (i - middle)) ** 2 for i, value in enumerate(values)])
    z = slope / max((residual / spread) ** 0.5, 1e-12)
    return z if abs(z) > 2 else 0.0
