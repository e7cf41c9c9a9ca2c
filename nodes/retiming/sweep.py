"""The runs of one γ Sweep: what was made before is not made again, and the first evaluation is shared."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management

import nodes as core

from ...tpm.numbers import strength
from .. import sockets
from ..latents import decoded
from .axes import Setting
from .batches import NOTE, sampled_together, why_one_by_one
from .explorer import Explorer
from .live import LiveView
from .patch import attach, attach_together
from .shared import Made, Remembered, Runs, can_share

log = logging.getLogger("asyncdiff")

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
    at_once: int = 1  # most γ in one batch

    def runs(self, row: Setting) -> Runs:
        """The runs that are remembered of this setting."""
        others = [getattr(self, name) for name in vars(self) if name not in ("model", "at_once")]
        start = (str(self.model.patches_uuid), row.seed, row.steps, row.cfg, *others)
        applied = (row.policy, row.bound, row.tail_sync, row.velocity_coupling)
        return REMEMBERED.under(self.model, start, (*applied, "a batch" if self.at_once > 1 else "one by one"))

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

    def sample_together(
        self, row: Setting, gammas: Sequence[float], views: Sequence[LiveView], runs: Runs
    ) -> list[Made]:
        """One run at each γ, as one batch."""
        applied = (row.bound, row.tail_sync, row.velocity_coupling)
        retimings = [sockets.retiming_from(gamma, *applied) for gamma in gammas]
        patched = attach_together(self.model, row.policy, retimings, views, runs.first, NOTE)
        latents = sampled_together(
            patched, row.seed, row.steps, row.cfg, self.sampler_name, self.scheduler, (self.positive, self.negative),
            self.latent_image, self.denoise, len(gammas),
        )  # fmt: skip
        return [Made(latent, view.trace) for latent, view in zip(latents, views, strict=True)]

    def why_one_by_one(self) -> str:
        """Half a sentence where several γ were asked for at once and cannot be one batch, else ""."""
        texts = (self.positive, self.negative)
        return why_one_by_one(self.model, self.sampler_name, texts, self.latent_image)


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
        for place, row, runs in places:
            missing = [gamma for gamma in gammas if not known[place, gamma]]
            for group in self._groups(missing):
                runs_made = self._sample_group(place, row, group, runs)
                known |= {(place, gamma): one for gamma, one in zip(group, runs_made, strict=True)}
        return [made for made in known.values() if made]

    def _groups(self, gammas: Sequence[float]) -> list[Sequence[float]]:
        """What is sampled at once."""
        size = self._shared.at_once
        if size > 1 and len(gammas) > 1 and (reason := self._shared.why_one_by_one()):
            log.info("γ Sweep samples one γ after the other: %s.", reason)
            size = 1
        return [gammas[start : start + size] for start in range(0, len(gammas), size)]

    def _sample_group(self, place: int, row: Setting, gammas: Sequence[float], runs: Runs) -> list[Made]:
        """The runs of these γ; where a batch of them does not fit into memory, one after the other."""
        if len(gammas) > 1:
            try:
                return self._sample_together(place, row, gammas, runs)
            except comfy.model_management.OOM_EXCEPTION:
                comfy.model_management.soft_empty_cache()
                log.warning("A batch of %d γ does not fit into memory: one after the other.", len(gammas))
        return [self._sample(place, row, gamma, runs) for gamma in gammas]

    def _sample_together(self, place: int, row: Setting, gammas: Sequence[float], runs: Runs) -> list[Made]:
        """The live chart shows the one that is nearest to γ = 1."""
        shown = min(gammas, key=lambda gamma: abs(gamma - 1))
        label = f"{_label(shown, row)} · one of {len(gammas)} at once"
        views = [LiveView(self._node if gamma == shown else None, label) for gamma in gammas]
        made = self._shared.sample_together(row, gammas, views, runs)
        for gamma, one in zip(gammas, made, strict=True):
            REMEMBERED.keep(runs, gamma, one)
            self._show(place, gamma, one)
        return made

    def _sample(self, place: int, row: Setting, gamma: float, runs: Runs) -> Made:
        made = self._shared.sample(row, gamma, LiveView(self._node, _label(gamma, row)), runs)
        REMEMBERED.keep(runs, gamma, made)
        self._show(place, gamma, made)
        return made

    def _show(self, place: int, gamma: float, made: Made, send: bool = True) -> None:
        pictures = made.pictures_by(self._vae, decoded)
        REMEMBERED.shrink()
        self._explorer.add(place, gamma, made, pictures, send)


def _label(gamma: float, row: Setting) -> str:
    return " · ".join(filter(None, (strength(gamma), row.label)))
