"""What is written down of every iteration: one JSON object a line, cut back when a run is resumed."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ...documents import as_object
from ...files import parse_json, read_text, write_atomically
from ..distributed import Processes
from ..resume import ResumeError
from .early_stop import AT_BOUND, HACKING_WINDOW
from .rollout import Batch, Sample
from .update import UpdateStats, divergence


class Journal:
    """The records of a run in a file, and the latest of them in memory."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self._writes = path, writes
        self._recent: deque[dict[str, Any]] = deque(maxlen=HACKING_WINDOW)
        self._probe: dict[str, Any] | None = None

    def add(self, record: dict[str, Any]) -> None:
        """Append one record."""
        self._take(record)
        if self._writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def cut(self, iterations: int) -> None:
        """Forget everything after this many iterations: a run goes on from its last state, not from its last line."""
        kept = [record for record in read_journal(self.path) if record["iteration"] <= iterations]
        for record in kept:
            self._take(record)
        if self._writes and self.path.exists():
            write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in kept).encode())

    def recent(self) -> list[dict[str, Any]]:
        """The latest records, as many as `alarms` look at."""
        return list(self._recent)

    def last_probe(self) -> dict[str, Any] | None:
        """The latest comparison with the synchronous sampler."""
        return self._probe

    def _take(self, record: dict[str, Any]) -> None:
        self._recent.append(record)
        self._probe = record.get("probe") or self._probe


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All records of a file; a last line that a crash cut off is left out."""
    text = read_text(path, ResumeError) if path.exists() else ""
    lines = enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1)
    return [_record_of(line, f"{path}, line {number}") for number, line in lines]


def _record_of(line: str, where: str) -> dict[str, Any]:
    return dict(as_object(parse_json(line, ResumeError, where), ResumeError, where))


@dataclass
class Iteration:
    """What one iteration of training did."""

    samples: Sequence[Sample]  # the trajectories of all processes
    batches: Sequence[Batch]  # what this process rendered
    scores: dict[str, Tensor]  # (N,) raw, by metric
    advantage: Tensor | None = None  # (N,); None where the scores teach nothing
    problem: str | None = None  # why they teach nothing
    stats: UpdateStats | None = None


def summarise(number: int, made: Iteration, bound: float, processes: Processes) -> dict[str, Any]:
    """An iteration's record, the same on every process. Values that are not finite are left out."""
    deviations = torch.cat([part for part in processes.gather(_deviations(made.batches)) if part is not None])
    record: dict[str, Any] = {
        "iteration": number,
        "trajectories": len(made.samples),
        "signal": made.advantage is not None,
        "metrics": {name: float(values.mean()) for name, values in made.scores.items() if values.isfinite().all()},
        "D": deviations.mean(0).tolist(),
        "D_std": deviations.std(0, correction=0).tolist(),
        "at_bound": float((deviations.abs() > AT_BOUND * bound).float().mean()),
        "clamped": fmean(share for part in processes.gather(_clamped(made.batches)) for share in part),
    }
    if made.stats is not None:
        record |= _learning([part for part in processes.gather(made.stats) if part is not None])
    return record | {"problem": made.problem, "prompt": made.samples[0].prompt}


def _deviations(batches: Sequence[Batch]) -> Tensor | None:
    """D (n, actions) of this process' trajectories, or None where it has none."""
    parts = []
    for batch in batches:
        acted = [d for d, r in zip(batch.trace.proposed, batch.trace.ratio, strict=True) if isinstance(r, list)]
        parts.append(torch.tensor(acted).T)
    return torch.cat(parts) if parts else None


def _clamped(batches: Sequence[Batch]) -> list[float]:
    return [1 - float(step.free.float().mean()) for batch in batches for step in batch.steps]


def _learning(parts: Sequence[UpdateStats]) -> dict[str, Any]:
    """The update's numbers over all processes."""
    ratio, log_ratio = ([value for part in parts for value in getattr(part, name)] for name in ("ratio", "log_ratio"))
    return {
        "ratio_min": min(ratio),
        "ratio_max": max(ratio),
        "clip_fraction": fmean(clipped for part in parts for clipped in part.clipped),
        "kl": divergence(log_ratio),
        "entropy": fmean(value for part in parts for value in part.entropy),
        "concentration": fmean(value for part in parts for value in part.concentration),
        "first_ratio_error": max(part.first_ratio_error for part in parts),
        "gradient_norm": fmean(parts[0].gradient_norm),
        "skipped": parts[0].skipped,
        "left": parts[0].left,
        "learning_rate": parts[0].learning_rate,
    }
