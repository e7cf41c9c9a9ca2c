"""Several runs from the same noise as one batch: each decides for its share, and the network is asked once for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...tpm.retiming.equations import Value
from .run import HostRun
from .told import Moment


class Together:
    """A `hooks.Run` of n runs over a batch that holds the same B images n times: those of the first run come first."""

    def __init__(self, runs: Sequence[HostRun]) -> None:
        self.runs = list(runs)
        self._begun: list[HostRun] = []
        self._moments: list[Moment | None] = []  # of the evaluation, by run

    @property
    def active(self) -> bool:
        """Whether any of them changes anything."""
        return any(run.active for run in self.runs)

    @property
    def copies(self) -> int:
        """How many times the batch holds the same images."""
        return len(self.runs)

    def begin(self, guider: Any, noise: Tensor, sampler: Any, sigmas: Tensor) -> bool:
        """Start all of them."""
        shares = self._shares(noise)
        self._begun = [
            run for run, share in zip(self.runs, shares, strict=True) if run.begin(guider, share, sampler, sigmas)
        ]
        return bool(self._begun)

    def condition(self, x: Tensor, timestep: Tensor) -> Moment | None:
        """What each tells the network about its share; None where all leave it alone."""
        shares = zip(self.runs, self._shares(x), self._shares(timestep), strict=True)
        self._moments = [run.condition(*share) if run in self._begun else None for run, *share in shares]
        told = next((moment for moment in self._moments if moment), None)
        if told is None:
            return None
        answers = [told.unit if moment is None else moment.t_star for moment in self._moments]
        images = len(x) // self.copies
        t_star = torch.cat([_for_images(answer, images, x.device) for answer in answers])
        return Moment(told.unit, t_star, told.clock)

    def observe(self, x: Tensor, timestep: Tensor, denoised: Tensor) -> Tensor:
        """Hand each its share; the same tensor where none changes it."""
        before = self._shares(denoised)
        shares = zip(self.runs, self._moments, self._shares(x), self._shares(timestep), before, strict=True)
        after = [run.observe(*share) if moment else share[-1] for run, moment, *share in shares]
        changed = any(one is not other for one, other in zip(before, after, strict=True))
        return torch.cat(after) if changed else denoised

    def withdraw(self) -> None:
        """A cache answered in the network's place, for all of them."""
        for run, moment in zip(self.runs, self._moments, strict=True):
            if moment:
                run.withdraw()

    def end(self, completed: bool) -> None:
        """All are over."""
        for run in self._begun:
            run.end(completed)

    def _shares(self, whole: Tensor) -> Sequence[Tensor]:
        return whole.chunk(self.copies)


def _for_images(t_star: Value, images: int, device: torch.device) -> Tensor:
    """t* as (images,)."""
    if isinstance(t_star, Tensor):
        return t_star.expand(images)
    return torch.full((images,), t_star, dtype=torch.float64, device=device)
