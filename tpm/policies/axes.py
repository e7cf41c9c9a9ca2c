"""What a curve's knots are placed over: σ, the step, or the log-SNR."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import PolicyError
from ..retiming.contract import StepState

HIGHEST_LOG_SNR = 10.0  # σ from .0067 to .9933; a σ beyond counts as the end of the range


@dataclass(frozen=True)
class Axis:
    """One way to place the evaluations of a run on a line from `low` to `high`."""

    symbol: str  # in charts and tables
    low: float
    high: float
    place: Callable[[StepState], float]  # of the evaluation whose deviation is decided

    def at(self, part: float) -> float:
        """The place at a part of the line, 0 … 1, such as the abscissa of a drawn curve."""
        return self.low + (self.high - self.low) * part


def log_snr(sigma: float) -> float:
    """2·log((1 − σ)/σ), the log-SNR of a flow model, limited to ±10: a run's first σ is 1 and its last may be 0."""
    if not 0 < sigma < 1:
        return -HIGHEST_LOG_SNR if sigma > 0 else HIGHEST_LOG_SNR
    return min(max(2 * math.log((1 - sigma) / sigma), -HIGHEST_LOG_SNR), HIGHEST_LOG_SNR)


AXES = {
    "sigma": Axis("σ", 0.0, 1.0, lambda state: state.sigma_next),
    "step": Axis("step k/K", 0.0, 1.0, lambda state: (state.index + 1) / state.steps),
    "log_snr": Axis("log-SNR", -HIGHEST_LOG_SNR, HIGHEST_LOG_SNR, lambda state: log_snr(state.sigma_next)),
}
"""By the word that a policy's document has for it. σ falls during a run, the other two rise."""


def axis_of(word: str) -> Axis:
    """The axis of this name. Raises PolicyError."""
    if not isinstance(word, str) or word not in AXES:
        raise PolicyError(f"The axis of a curve is {', '.join(AXES)}, not {word!r}.")
    return AXES[word]
