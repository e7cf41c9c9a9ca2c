"""Reward models as the scorer of training and search."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management
import torch
from torch import Tensor

from ...tpm.embedded.judge import Judge
from ...tpm.embedded.reward import TowardsTruth
from ...tpm.embedded.vocabulary import check_caption
from ...tpm.rewards.base import RewardError
from ...tpm.rewards.catalogue import RESIDUAL_NOISE
from ...tpm.rewards.pictures import as_pictures
from ...tpm.rewards.scoring import ResidualNoise
from .. import fingerprints
from ..rewards.models import EMBEDDED_JUDGE, JUDGE_FILE, TITLES, RewardModel


class HostScorer:
    """A `tpm.training.studio.Scorer`: one model is on the device at a time, and leaves it after scoring.

    The embedded judge gives three metrics (alignment, detail fit, cleanness), every other model one. Raises RewardError
    where nothing judges, or one model twice.
    """

    def __init__(self, models: Sequence[RewardModel], residual_noise: bool = False) -> None:
        titles = [TITLES[model.key] for model in models]
        if not titles and not residual_noise:
            raise RewardError("There is nothing to judge with: connect a Load Reward Model to rewards.")
        if len(set(titles)) < len(titles):
            raise RewardError(f"A metric is connected twice ({', '.join(titles)}); connect each once.")
        self._models = [model for model in models if model.key != EMBEDDED_JUDGE]
        self._judge = Judge.load(JUDGE_FILE) if len(self._models) < len(models) else None
        self._reward = TowardsTruth(self._judge) if self._judge is not None else None
        self._noise = residual_noise

    def versions(self) -> dict[str, str]:
        """Which weights judge, by metric."""
        found = {model.key: fingerprints.of_module(_module(model)) for model in self._models}
        if self._judge is not None:
            found[EMBEDDED_JUDGE] = fingerprints.of_module(self._judge)
        return found | ({RESIDUAL_NOISE: "1"} if self._noise else {})

    def check(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that a metric cannot read: PromptError for captions that the embedded world cannot draw."""
        if self._judge is not None:
            for prompt in dict.fromkeys(prompts):
                check_caption(prompt, self._judge.most_objects)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Raw scores (n,), float32 on the CPU, by metric; the stop button is heard between two chunks."""
        with torch.inference_mode():
            scores = dict(self._reward(images, prompts)) if self._reward is not None else {}
            pictures = as_pictures(images) if self._models or self._noise else []
            scores |= {model.key: model.score(pictures, prompts, _stop_if_asked) for model in self._models}
            if self._noise:
                scores[RESIDUAL_NOISE] = ResidualNoise().score(pictures, prompts)
        _stop_if_asked()
        with torch.inference_mode(False):
            return {name: values.clone() for name, values in scores.items()}


def _module(model: RewardModel) -> torch.nn.Module:
    module: torch.nn.Module = model.metric.module  # type: ignore[attr-defined] # every metric with weights has one
    return module


def _stop_if_asked(_: int = 0) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
