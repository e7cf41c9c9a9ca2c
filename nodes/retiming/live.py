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
        return watching_server(self._node) is not None

    def begun(self, sigmas: tuple[float, ...]) -> None:
        self._send(event="begin", sigmas=list(sigmas), label=self._label)

    def conditioned(self, step: int, decision: Decision) -> None:
        numbers = {"t_star": decision.t_star, "deviation": decision.applied, "proposed": decision.deviation}
        self._send(event="step", step=step, **{name: _per_sample(value) for name, value in numbers.items()})

    def finished(self, trace: Trace) -> None:
        self.trace = trace
        self._send(event="end", steps=trace.steps, notes=trace.notes)

    def _send(self, **message: Any) -> None:
        tell(EVENT, self._node, **message)


def tell(channel: str, node: str | None, **message: Any) -> None:
    """Send a message of a node to the browser that shows it, if there is one."""
    server = watching_server(node)
    if server is not None:
        server.send_sync(channel, {"node": node, **message}, server.client_id)


def watching_server(node: str | None) -> Any:
    """The running server if a browser is connected to it and the node is on its screen."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    return server if node and server is not None and server.client_id is not None else None


def columns_of(trace: Trace) -> dict[str, list[list[float]]]:
    """t*, D as applied and D as proposed for each step, in the form of the messages: a number or one a sample."""
    columns = {"t_star": trace.t_star, "deviation": trace.deviation, "proposed": trace.proposed}
    return {name: [v if isinstance(v, list) else [v] for v in column] for name, column in columns.items()}


def _per_sample(value: Value) -> list[float]:
    """One number for the whole batch, or one for each sample."""
    return value.tolist() if isinstance(value, Tensor) else [value]
