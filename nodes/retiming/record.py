"""What a run leaves behind for the nodes after it: its trace, and what the next part of the run needs."""

from __future__ import annotations

from ...tpm.errors import PolicyError
from ...tpm.retiming.contract import StepState
from ...tpm.retiming.trace import Trace
from .live import LiveView


class RunRecord(LiveView):
    """The live view of a node, and the TRACE output of one that only patches a model: filled by each of its runs."""

    def __init__(self, node: str | None, label: str = "") -> None:
        super().__init__(node, label)
        self.carried: StepState | None = None  # for the next part, by a policy that reads a state

    def begun(self, sigmas: tuple[float, ...]) -> None:
        """A run starts: what the one before left is over."""
        self.trace, self.carried = None, None
        super().begun(sigmas)


def trace_of(value: Trace | RunRecord | None) -> Trace:
    """The trace that a TRACE output stands for. Raises PolicyError where no run has made it yet."""
    trace = value.trace if isinstance(value, RunRecord) else value
    if trace is None:
        raise PolicyError(
            "There is no trace yet: the model was patched, and nothing has sampled with it. Connect the LATENT of that"
            ' sampler to the input "after" of this node, so that it waits for the run.'
        )
    return trace


def record_of(value: Trace | RunRecord | None) -> RunRecord | None:
    """What the part before this one recorded, also where only its trace is known. None: there is no part before."""
    if value is None or isinstance(value, RunRecord):
        return value
    record = RunRecord(None)
    record.trace = value
    return record
