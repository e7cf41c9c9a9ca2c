"""What a run tells whoever watches it, step by step, without a wait for the device."""

from __future__ import annotations

from itertools import takewhile
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...tpm.retiming.decisions import Decision
from ...tpm.retiming.on_device import DeviceCourse
from ...tpm.retiming.parts import Stretch
from ...tpm.retiming.trace import Trace


class Watcher(Protocol):
    """Who wants to see a run: the live view of a node, or a node that hands the trace on."""

    @property
    def watching(self) -> bool:
        """Whether the steps are wanted as they are decided; the grid and the trace are told in any case."""

    def begun(self, sigmas: tuple[float, ...]) -> None:
        """A run starts on this grid."""

    def conditioned(self, step: int, decision: Decision) -> None:
        """Step `step` is conditioned as decided: numbers for the whole batch, or tensors (B,) with one per sample."""

    def finished(self, trace: Trace) -> None:
        """The run is over, or was interrupted."""


class Posted(NamedTuple):
    """A report on its way to the host."""

    values: Tensor
    ready: Any  # an event of the device; None where the values are there only after a wait


class Reports:
    """Hands a watcher one report for each step of a run, in order; those of a device when they have arrived."""

    def __init__(self, watcher: Watcher | None) -> None:
        self._watcher = watcher
        self._on_the_way: list[Posted] = []
        self._step = -1
        self._part = Stretch(0, 0)
        self.wanted = False

    def begin(self, grid: tuple[float, ...], part: Stretch) -> None:
        """A run starts; it has the steps `part` of the grid, and they are told as 0, 1, …"""
        sigmas = grid[part.first : part.stop + 1]
        self._on_the_way, self._step, self._part = [], -1, part
        self.wanted = self._watcher is not None and self._watcher.watching
        if self._watcher:
            self._watcher.begun(sigmas)

    def tell(self, step: int, decision: Decision) -> None:
        """A step is conditioned. Told again for the same step, it says nothing."""
        first, stop = self._part
        if self._watcher and step != self._step and first <= step < stop:
            self._step = step
            self._watcher.conditioned(step - first, decision)

    def post(self, run: DeviceCourse) -> None:
        """Send the latest evaluation's report on its way, and tell what has arrived of those before."""
        self.arrived(run)
        self._on_the_way.append(_posted(run.report()))

    def arrived(self, run: DeviceCourse, wait: bool = False) -> None:
        """Tell what is on the host by now; all of it, if `wait`, with one wait."""
        here = len(self._on_the_way) if wait else sum(1 for _ in takewhile(_is_here, self._on_the_way))
        arrived, self._on_the_way = self._on_the_way[:here], self._on_the_way[here:]
        if not arrived:
            return
        if wait and arrived[-1].ready is not None:
            arrived[-1].ready.synchronize()
        for values in torch.stack([posted.values for posted in arrived]).cpu():
            if report := run.read_report(values):
                self.tell(*report)

    def finish(self, trace: Trace) -> None:
        """The run is over."""
        self._on_the_way = []
        if self._watcher:
            self._watcher.finished(trace)


def _posted(values: Tensor) -> Posted:
    """Copy to the host without waiting, where that is possible."""
    if values.device.type != "cuda":
        return Posted(values, None)
    there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    there.copy_(values, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return Posted(there, ready)


def _is_here(posted: Posted) -> bool:
    return posted.ready is not None and bool(posted.ready.query())
