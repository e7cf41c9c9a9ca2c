"""The metrics of `rewards` as a scorer that judges every iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor

from ..rewards.base import Metric
from ..rewards.scoring import CHUNK, Opener, score_all


class MetricScorer:
    """Loads each metric once. Modules wait on the CPU and visit the device in turn, so that one is there at a time."""

    def __init__(self, openers: Mapping[str, Opener], device: str = "cpu", chunk: int = CHUNK) -> None:
        self._openers, self._device, self._chunk = openers, device, chunk
        self._loaded: dict[str, Metric] = {}

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Raw scores (n,), float32 on the CPU, by metric. Raises RewardError."""
        scores: dict[str, Tensor] = {}
        for name in self._openers:
            metric = self._metric(name)
            self._move(metric, self._device)
            try:
                scores |= score_all({name: partial(_same, metric)}, images, prompts, chunk=self._chunk)
            finally:
                self._move(metric, "cpu")
        return scores

    def _metric(self, name: str) -> Metric:
        if name not in self._loaded:
            self._loaded[name] = self._openers[name]()
        return self._loaded[name]

    def _move(self, metric: Metric, device: str) -> None:
        module = getattr(metric, "module", None)
        if module is not None and self._device != "cpu":
            module.to(device)


def _same(metric: Metric) -> Metric:
    return metric
