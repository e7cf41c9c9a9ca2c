"""Several processes as one trainer: who does which part, and what they must tell each other.

`torch.distributed` does the work; `accelerate launch` (or torchrun) starts the processes. A process
alone does all of the work itself, and every operation is then free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import AsyncDiffError

_T = TypeVar("_T")


class ProcessError(AsyncDiffError):
    """Another process failed."""


@dataclass(frozen=True)
class Processes:
    """This process among `size` others."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Processes:
        """The process group that was initialised, or this process alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and draws the progress bar."""
        return self.rank == 0

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """This process' contiguous part of the items; the parts of all, in order, are the items."""
        start, stop = (len(items) * part // self.size for part in (self.rank, self.rank + 1))
        return items[start:stop]

    def gather(self, item: _T) -> list[_T]:
        """Everybody's item, by rank. Items are small and picklable."""
        if self.size == 1:
            return [item]
        everybody: list[Any] = [None] * self.size
        dist.all_gather_object(everybody, item)
        return everybody

    def sum_gradients(self, module: nn.Module) -> None:
        """Add up the gradients of all processes, in place and in one message."""
        if self.size == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in module.parameters()]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for parameter, summed in zip(module.parameters(), _split(flat, gradients), strict=True):
            parameter.grad = summed

    def run_everywhere(self, work: Callable[[], _T]) -> list[_T]:
        """Do this process' part of the work; returns everybody's results, by rank.

        If any process failed, all raise: the failing ones their own error, the others a ProcessError that quotes it.
        """
        result: _T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - the others must hear of it before it is raised
            failure = error
        reports = self.gather((failure and f"{type(failure).__name__}: {failure}", result))
        if failure is not None:
            raise failure
        for rank, (message, _) in enumerate(reports):
            if message is not None:
                raise ProcessError(f"Process {rank} failed, so all stop: {message}")
        return [result for _, result in reports if result is not None]


def _split(flat: Tensor, like: Sequence[Tensor]) -> Iterator[Tensor]:
    """`flat` cut into the shapes of `like`."""
    parts = flat.split([tensor.numel() for tensor in like])
    return (part.view_as(tensor) for part, tensor in zip(parts, like, strict=True))
