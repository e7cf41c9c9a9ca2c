"""The σ of every pixel over one run on a host's grid: where it is, and where the next step takes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .regions import Size
from .schedules import Curve, Pace, check_strengths, reaim, sigma_at


class Course:
    """One run. All pixels begin at the grid's first σ and arrive at its last; states are kept in fp64 on the CPU."""

    def __init__(self, sigmas: Tensor, strengths: Sequence[float], batch: int, size: Size, curve: Curve) -> None:
        check_strengths(strengths)
        self._grid, self._strengths = sigmas.cpu(), list(strengths)
        self._pace = Pace(len(sigmas) - 1, curve)
        self._state = torch.ones(batch, 1, *size, dtype=torch.float64)
        self.step = 0
        self.sigma = sigma_at(self._state, self._grid)  # (B, 1, H, W)
        self.before = self.sigma  # σ of the step before; the same in the first

    @property
    def steps(self) -> int:
        """S."""
        return self._pace.steps

    def advance(self, masks: Tensor) -> Tensor:
        """Take the step in progress with these regions, bool (B, J, H, W) or (1, J, H, W); returns the next σ."""
        self._state = reaim(self._state, self.step, masks.cpu(), self._strengths, self._pace)
        self.before, self.sigma = self.sigma, sigma_at(self._state, self._grid)
        self.step += 1
        return self.sigma
