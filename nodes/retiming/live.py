"""What a running node tells the browser: the grid when a run starts, then t* and D of every step.

The front end draws; every number is computed here. Messages carry the id of the node that they belong to.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...tpm.retiming.decisions import Decision
from ...tpm.retiming.equations import Value
from ...tpm.retiming.trace import Trace

EVENT = "asyncdiff.live"


class LiveView:
    """Sends a run to the node that shows it, and keeps the trace of the latest run."""

    def __init__(self, node: str | None, label: str = "") -> None:
        self._node, self._label = node, label
        self.trace: Trace | None = None

    @property
    def watching(self) -> bool:
        """Whether a browser shows the node."""
        return self._server() is not None

    def begun(self, sigmas: tuple[float, ...]) -> None:
        self._send(event="begin", sigmas=list(sigmas), label=self._label)

    def conditioned(self, step: int, decision: Decision) -> None:
        numbers = {"t_star": decision.t_star, "deviation": decision.applied, "proposed": decision.deviation}
        self._send(event="step", step=step, **{name: _per_sample(value) for name, value in numbers.items()})

    def replay(self, trace: Trace) -> None:
        """Show a run that was made before."""
        self.begun(tuple(trace.sigmas))
        if self.watching:
            for step in range(trace.steps):
                values = trace.t_star[step], trace.deviation[step], trace.proposed[step]
                names = "t_star", "deviation", "proposed"
                told = {name: v if isinstance(v, list) else [v] for name, v in zip(names, values, strict=True)}
                self._send(event="step", step=step, **told)
        self.finished(trace)

    def finished(self, trace: Trace) -> None:
        self.trace = trace
        self._send(event="end", steps=trace.steps, notes=trace.notes)

    def _send(self, **message: Any) -> None:
        server = self._server()
        if server is not None:
            server.send_sync(EVENT, {"node": self._node, **message}, server.client_id)

    def _server(self) -> Any:
        """The running server if a browser is connected to it and the node is on its screen."""
        from server import PromptServer

        server = getattr(PromptServer, "instance", None)
        return server if self._node and server is not None and server.client_id is not None else None


def _per_sample(value: Value) -> list[float]:
    """One number for the whole batch, or one for each sample."""
    return value.tolist() if isinstance(value, Tensor) else [value]
