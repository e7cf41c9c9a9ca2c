"""What a running node tells the browser: the grid when a run starts, then t* and D of every step.

The front end draws; every number is computed here. Messages carry the id of the node that they belong to.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...tpm.retiming.equations import Value
from ...tpm.retiming.trace import Trace

EVENT = "asyncdiff.live"


class LiveView:
    """Sends a run to the node that shows it, and keeps the trace of the latest run."""

    def __init__(self, node: str | None, label: str = "") -> None:
        self._node, self._label = node, label
        self._sigmas: tuple[float, ...] = ()
        self.trace: Trace | None = None

    def begun(self, sigmas: tuple[float, ...]) -> None:
        """See `host.Watcher`."""
        self._sigmas = sigmas
        self._send(event="begin", sigmas=list(sigmas), label=self._label)

    def conditioned(self, step: int, t_star: Value) -> None:
        """See `host.Watcher`. A tensor is read back only while a browser looks on."""
        if self._server() is not None:
            values = t_star.tolist() if isinstance(t_star, Tensor) else [t_star]
            self._send(event="step", step=step, t_star=values, deviation=self._deviation(step, values))

    def finished(self, trace: Trace) -> None:
        """See `host.Watcher`."""
        self.trace = trace
        self._send(event="end", steps=trace.steps)

    def _deviation(self, step: int, t_star: list[float]) -> list[float]:
        """D of each sample, in steps: Eq 6 solved for it. The first step has no interval behind it and D = 0."""
        if step < 1:
            return [0.0] * len(t_star)
        sigma, interval = self._sigmas[step], self._sigmas[step] - self._sigmas[step - 1]
        return [(value - sigma) / interval for value in t_star]

    def _send(self, **message: Any) -> None:
        server = self._server()
        if server is not None:
            server.send_sync(EVENT, {"node": self._node, **message}, server.client_id)

    def _server(self) -> Any:
        """The running server if a browser is connected to it and the node is on its screen."""
        from server import PromptServer

        server = getattr(PromptServer, "instance", None)
        return server if self._node and server is not None and server.client_id is not None else None
