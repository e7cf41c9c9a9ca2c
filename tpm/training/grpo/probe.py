"""Where a run stands: the TPM's modes against the synchronous sampler, on the same prompts and noises every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...policies import Learned, Policy
from ...policies.checkpoint import Card
from ...policies.network import TPM
from ..compare.measure import GAUGE, gain, with_noise_floor
from ..distributed import Processes
from ..studio import Scorer, Studio, joined, noise_of, scored
from .advantages import RunningStd
from .recipe import Recipe


@dataclass
class Probe:
    """A fixed set of prompts and noises. `reference` holds the synchronous scores, made when first needed."""

    studio: Studio
    scorer: Scorer
    recipe: Recipe
    prompts: Sequence[str]
    processes: Processes
    reference: dict[str, Tensor] = field(default_factory=dict)

    def compare(self, tpm: TPM, usual: RunningStd) -> dict[str, Any]:
        """Means of every metric, paired differences, and the gain: their weighted mean in the metrics' usual σ."""
        if not self.reference:
            self.reference = self._measure(None)
        card = Card(tpm.config.backbone, self.recipe.bound)
        scores = self._measure(Learned(tpm, "mode", card=card))
        means = {name: float(values.mean()) for name, values in scores.items() if name != GAUGE}
        paired = {name: mean - float(self.reference[name].mean()) for name, mean in means.items()}
        return {
            "metrics": means,
            "paired": paired,
            "gain": self._gain(scores, usual),
            "noise": float(scores[GAUGE].mean()),
            "synchronous_noise": float(self.reference[GAUGE].mean()),
        }

    def _gain(self, scores: dict[str, Tensor], usual: RunningStd) -> float | None:
        """The mean R of the differences; None before any metric's spread is known (or with a null reward)."""
        known = with_noise_floor({name: std for name, std in usual.values.items() if name in scores and std > 0})
        weights = {name: self.recipe.weights.get(name, 1.0) for name in known}
        return float(gain(scores, self.reference, known, weights).mean()) if any(weights.values()) else None

    def _measure(self, policy: Policy | None) -> dict[str, Tensor]:
        """Scores by metric, one per prompt, and the noise gauge; split over the processes."""
        numbers, size = list(self.processes.share(range(len(self.prompts)))), self.recipe.render_batch
        mine = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        parts = self.processes.run_everywhere(lambda: [self._batch(chunk, policy) for chunk in mine])
        return joined([part for everybody in parts for part in everybody])

    def _batch(self, numbers: Sequence[int], policy: Policy | None) -> dict[str, Tensor]:
        prompts = [self.prompts[number] for number in numbers]
        seeds = [self.recipe.seed_of("probe", number) for number in numbers]
        rendering = self.studio.render(prompts, seeds, policy, self.recipe.retiming, steps=self.recipe.steps)
        return {**scored(self.scorer, rendering.images, prompts), GAUGE: noise_of(rendering.images)}
