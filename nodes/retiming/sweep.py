"""The runs of one γ Sweep: what was made before is not made again, and the first evaluation is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nodes as core

from ...tpm.numbers import strength
from .. import sockets
from ..latents import decoded
from .axes import Setting
from .explorer import Explorer
from .live import LiveView
from .patch import attach
from .shared import Made, Remembered, Runs, can_share

REMEMBERED = Remembered()  # the runs of all γ Sweeps of the latest model


@dataclass(frozen=True)
class Shared:
    """What all runs of a sweep have in common."""

    model: Any
    sampler_name: str
    scheduler: str
    positive: Any
    negative: Any
    latent_image: dict[str, Any]
    denoise: float

    def runs(self, row: Setting) -> Runs:
        """The runs that are remembered of this setting."""
        others = [getattr(self, name) for name in vars(self) if name != "model"]
        start = (str(self.model.patches_uuid), row.seed, row.steps, row.cfg, *others)
        return REMEMBERED.under(self.model, start, (row.policy, row.bound, row.tail_sync, row.velocity_coupling))

    def sample(self, row: Setting, gamma: float, view: LiveView, runs: Runs) -> Made:
        """One run."""
        retiming = sockets.retiming_from(gamma, row.bound, row.tail_sync, row.velocity_coupling)
        first = runs.first if can_share(self.model, (self.positive, self.negative)) else None
        patched = attach(self.model, row.policy, retiming, view, first)
        (latent,) = core.common_ksampler(
            patched, row.seed, row.steps, row.cfg, self.sampler_name, self.scheduler, self.positive, self.negative,
            self.latent_image, denoise=self.denoise,
        )  # fmt: skip
        return Made(latent["samples"], view.trace)


class Sweep:
    """One execution of the node."""

    def __init__(self, shared: Shared, vae: Any, explorer: Explorer, node: str | None) -> None:
        self._shared, self._vae, self._explorer, self._node = shared, vae, explorer, node

    def run(self, rows: Sequence[Setting], gammas: Sequence[float]) -> list[Made]:
        """Every run, of the first row at every γ, then of the next. What is known already is shown first."""
        places = [(place, row, self._shared.runs(row)) for place, row in enumerate(rows)]
        known = {(place, gamma): runs.recall(gamma) for place, _, runs in places for gamma in gammas}
        for (place, gamma), made in known.items():
            if made:
                self._show(place, gamma, made, send=False)
        self._explorer.begin()
        return [
            known[place, gamma] or self._sample(place, row, gamma, runs)
            for place, row, runs in places
            for gamma in gammas
        ]

    def _sample(self, place: int, row: Setting, gamma: float, runs: Runs) -> Made:
        label = " · ".join(filter(None, (strength(gamma), row.label)))
        made = self._shared.sample(row, gamma, LiveView(self._node, label), runs)
        REMEMBERED.keep(runs, gamma, made)
        self._show(place, gamma, made)
        return made

    def _show(self, place: int, gamma: float, made: Made, send: bool = True) -> None:
        pictures = made.pictures_by(self._vae, decoded)
        REMEMBERED.shrink()
        self._explorer.add(place, gamma, made, pictures, send)
