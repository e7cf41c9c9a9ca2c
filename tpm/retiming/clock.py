"""The noise level σ of any model family on one line from 0 (the image) to 1 (noise), where a `Retimer` works.

The equations of asynchronous timesteps (Eq 6, Eq 12) need a time on which a step has a length. A flow model's σ is
such a time. Other families run σ from some 0.002 to 80 or further: a clock says which u in [0, 1] a σ is, and back.
Then t*_{k+1} = u_{k+1} + D·(u_{k+1} − u_k), and the network is told the timestep of t*; the sampler keeps its σ.

Values are floats, or tensors of any shape on any device; a tensor never makes the host wait.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from .equations import Value

OfSigma = Callable[[Tensor], Tensor]


class Clock(Protocol):
    """σ ≥ 0 ↔ u. Both directions are strictly rising and take 0 to 0."""

    formula: str
    """What u is, in short."""

    def to_unit(self, sigma: Value) -> Value:
        """Where σ is on the line, u."""

    def to_sigma(self, unit: Value) -> Value:
        """The σ of u."""

    def timestep(self, unit: Tensor, of_sigma: OfSigma) -> Tensor:
        """What the network is told for u. of_sigma: the host's own function from σ to the network's timestep."""


class Flow:
    """Flow matching: σ is u itself."""

    formula = "u = σ"

    def to_unit(self, sigma: Value) -> Value:
        return sigma

    def to_sigma(self, unit: Value) -> Value:
        return unit

    def timestep(self, unit: Tensor, of_sigma: OfSigma) -> Tensor:
        return of_sigma(unit)


class Ratio:
    """u = σ/(1 + σ), for EDM (Karras et al. 2022) and Cosmos: the flow time of the same ratio of noise to image."""

    formula = "u = σ/(1 + σ)"

    def to_unit(self, sigma: Value) -> Value:
        return sigma / (1 + sigma)

    def to_sigma(self, unit: Value) -> Value:
        return unit / (1 - unit)

    def timestep(self, unit: Tensor, of_sigma: OfSigma) -> Tensor:
        return of_sigma(cast("Tensor", self.to_sigma(unit)))


class Angle:
    """u = atan(σ)·2/π: the angle between image and noise, as Stable Audio counts its time."""

    formula = "u = atan(σ)·2/π"

    def to_unit(self, sigma: Value) -> Value:
        return (sigma.atan() if isinstance(sigma, Tensor) else math.atan(sigma)) * (2 / math.pi)

    def to_sigma(self, unit: Value) -> Value:
        angle = unit * (math.pi / 2)
        return angle.tan() if isinstance(angle, Tensor) else math.tan(angle)

    def timestep(self, unit: Tensor, of_sigma: OfSigma) -> Tensor:
        return of_sigma(cast("Tensor", self.to_sigma(unit)))


class Cosine:
    """The cosine schedule (Nichol and Dhariwal 2021) of Stable Cascade: α̅(u) = cos²((u + s)/(1 + s)·π/2)/α̅(0)."""

    formula = "u = the time of the cosine schedule"

    def __init__(self, offset: float = 8e-3) -> None:
        """offset: s."""
        self._s = offset
        self._start = math.cos(offset / (1 + offset) * math.pi / 2) ** 2

    def to_unit(self, sigma: Value) -> Value:
        rest = self._start / (1 + sigma * sigma)  # of cos²
        angle = rest.sqrt().acos() if isinstance(rest, Tensor) else math.acos(math.sqrt(rest))
        unit = angle * (2 / math.pi) * (1 + self._s) - self._s
        return unit.clamp(min=0) if isinstance(unit, Tensor) else max(unit, 0.0)  # rounding goes below at σ = 0

    def to_sigma(self, unit: Value) -> Value:
        angle = (unit + self._s) / (1 + self._s) * (math.pi / 2)
        cos = angle.cos() if isinstance(angle, Tensor) else math.cos(angle)
        noise = self._start / (cos * cos) - 1
        return noise.clamp(min=0).sqrt() if isinstance(noise, Tensor) else math.sqrt(max(noise, 0.0))

    def timestep(self, unit: Tensor, of_sigma: OfSigma) -> Tensor:
        return of_sigma(cast("Tensor", self.to_sigma(unit)))


class Table:
    """Discrete models (SD1.5, SDXL, …): u = (i + 1)/n, where i is the continuous index of σ among n trained levels.

    i is linear in log σ between two levels. Below the lowest level it runs on to −1 at σ = 0, so that the last step
    has a length; the network is never told less than 0. Above the highest it goes on as between the last two.
    """

    formula = "u = (trained timestep + 1)/their number"

    def __init__(self, sigmas: Sequence[float] | Tensor, told: tuple[float, float] | None = None) -> None:
        """sigmas: the σ of the n ≥ 2 trained levels, rising, above 0.

        told: the timesteps of the first and the last level, where the network is not told the index, 0 … n − 1.
        """
        levels = sigmas.tolist() if isinstance(sigmas, Tensor) else list(sigmas)
        first, last = told or (0.0, len(levels) - 1.0)
        self._first, self._spacing = first, (last - first) / (len(levels) - 1)
        self._lowest = levels[0]
        self._logs = [math.log(sigma) for sigma in levels]
        self._uploaded: Tensor | None = None

    @property
    def levels(self) -> int:
        """How many timesteps the model was trained on, n."""
        return len(self._logs)

    def to_unit(self, sigma: Value) -> Value:
        return (self._index(sigma) + 1) / self.levels

    def to_sigma(self, unit: Value) -> Value:
        index = unit * self.levels - 1
        if isinstance(index, Tensor):
            logs, low = self._on(index), index.floor().clamp(0, self.levels - 2).long()
            level = logs[low] + (index - low) * (logs[low + 1] - logs[low])
            return torch.where(index < 0, self._lowest * (index + 1), level.exp())
        return self._lowest * (index + 1) if index < 0 else math.exp(self._log_at(index))

    def timestep(self, unit: Tensor, of_sigma: OfSigma) -> Tensor:  # noqa: ARG002 - the protocol's signature
        """Between the trained timesteps, never beyond: the host's own function would round it to one of them."""
        return self._first + self._spacing * (unit * self.levels - 1).clamp(0, self.levels - 1)

    def _index(self, sigma: Value) -> Value:
        """The continuous index, −1 at σ = 0."""
        if isinstance(sigma, Tensor):
            log, logs = sigma.log(), self._on(sigma)
            low = (torch.bucketize(log, logs, right=True) - 1).clamp(0, self.levels - 2)
            level = low + (log - logs[low]) / (logs[low + 1] - logs[low])
            return torch.where(sigma < self._lowest, sigma / self._lowest - 1, level)
        return sigma / self._lowest - 1 if sigma < self._lowest else self._index_of(math.log(sigma))

    def _index_of(self, log: float) -> float:
        low = min(max(bisect_right(self._logs, log) - 1, 0), self.levels - 2)
        return low + (log - self._logs[low]) / (self._logs[low + 1] - self._logs[low])

    def _log_at(self, index: float) -> float:
        low = min(int(index), self.levels - 2)
        return self._logs[low] + (index - low) * (self._logs[low + 1] - self._logs[low])

    def _on(self, like: Tensor) -> Tensor:
        """The logarithms beside `like`; uploaded once for each device."""
        known = self._uploaded
        if known is None or known.device != like.device or known.dtype != like.dtype:
            known = torch.tensor(self._logs, dtype=like.dtype).to(like.device, non_blocking=True)
            self._uploaded = known
        return known


FLOW = Flow()


def described(clock: Clock | type[Clock]) -> str:
    """A sentence for the trace where σ is shown on the clock's line; nothing for flow models."""
    return (
        ""
        if clock is FLOW
        else f"σ and t* are shown on the line from 1 to 0 where they have a length: {clock.formula}."
    )
