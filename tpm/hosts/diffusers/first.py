"""The first evaluation of runs that start alike: step 0 is synchronous, so no policy changes it.

Equal rows of a batch (one prompt, one start noise, other actions) are evaluated once, and a run that begins with what
an earlier run began with takes its answer. Fewer rows at once round differently; an answer that is taken over does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

ROWS = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "guidance")
"""The denoiser's arguments with one row for each sample."""


class FirstEvaluation:
    """Kept by whoever makes many runs with one unchanged pipeline, for as long as it does not change."""

    def __init__(self) -> None:
        self._known: tuple[dict[str, Any], Tensor] | None = None
        self.asked = self.evaluated = 0  # rows that runs wanted, and rows that the denoiser computed
        self.saved = 0  # evaluations that were not made, in samples: guidance has two rows for each

    def ask(
        self, stock: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], equal: Sequence[int]
    ) -> Any:
        """The denoiser's answer. equal: for each sample of the batch the first sample that is the same one."""
        count = len(kwargs["hidden_states"]) if "hidden_states" in kwargs else 0
        if args or count % len(equal) or kwargs.get("return_dict", True) or not _plain(kwargs, count):
            return stock(*args, **kwargs)
        rows = [chunk * len(equal) + first for chunk in range(count // len(equal)) for first in equal]
        unique = sorted(set(rows))
        given = _select(kwargs, unique, count)
        answer = self._recall(given)
        computed = 0
        if answer is None:
            (answer,) = stock(**given)
            self._known, computed = (_own(given), answer.clone()), len(unique)
        self.asked, self.evaluated = self.asked + count, self.evaluated + computed
        self.saved += (count - computed) * len(equal) // count
        return (answer[_index([unique.index(row) for row in rows], answer)],)

    def _recall(self, given: Mapping[str, Any]) -> Tensor | None:
        """The answer to exactly this question. The host waits for the device, once a run."""
        if self._known is None:
            return None
        before, answer = self._known
        same = before.keys() == given.keys() and all(_same(before[name], given[name]) for name in given)
        return answer.clone() if same else None


def _plain(kwargs: Mapping[str, Any], count: int) -> bool:
    """Whether every row of the call is in an argument that is known: no ControlNet's residuals, say."""
    lists = any(isinstance(value, list | tuple) and value for value in kwargs.values())
    options = any(isinstance(value, dict) and value for value in kwargs.values())
    sizes = {len(value) for name, value in kwargs.items() if name in ROWS and isinstance(value, Tensor)}
    return not lists and not options and sizes == {count}


def _select(kwargs: Mapping[str, Any], rows: list[int], count: int) -> dict[str, Any]:
    if len(rows) == count:
        return dict(kwargs)
    return {n: v[_index(rows, v)] if n in ROWS and isinstance(v, Tensor) else v for n, v in kwargs.items()}


def _index(rows: list[int], like: Tensor) -> Tensor:
    return torch.tensor(rows, device=like.device)


def _own(given: Mapping[str, Any]) -> dict[str, Any]:
    """Copies that the pipeline does not write into."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    return one is other or (not isinstance(one, Tensor) and not isinstance(other, Tensor) and bool(one == other))
