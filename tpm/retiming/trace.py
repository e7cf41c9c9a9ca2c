"""What one run decided, step by step: small, printable, saved as JSON, and replayable (`policies.Recorded`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from ..errors import PolicyError
from ..files import check_header, read_json, write_json

FORMAT, VERSION = "asyncdiff-trace", 1
COLUMNS = ("sigmas", "t_star", "deviation", "ratio", "clamped", "proposed")

Entry: TypeAlias = float | list[float]


@dataclass
class Trace:
    """One run of K steps. A per-step entry is a number, or a list with one number per sample of the batch."""

    sigmas: list[float]  # the true grid t_0 … t_K, K + 1 points
    t_star: list[Entry]  # the conditioning timestep of each step
    deviation: list[Entry]  # D as applied, (t* − t)/Δ, so after the clamp; 0 where the step was synchronous
    ratio: list[Entry]  # the action r in [0, 1]; 0.5 where no action was taken
    clamped: list[bool | list[bool]]  # whether a clamp cut the action off
    proposed: list[Entry]  # D as decided, before the clamp; equal to `deviation` where nothing was cut off
    policy: dict[str, Any] = field(default_factory=dict)
    retiming: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """K, the number of steps whose conditioning was decided; less than the grid's if the run was cut short."""
        return len(self.t_star)

    def mean_deviation(self) -> list[float]:
        """D of each step as decided, averaged over the batch: the paper's mean D is of the actions."""
        return [mean(entry) for entry in self.proposed]

    def to_dict(self) -> dict[str, Any]:
        """A JSON document; `from_dict` is its inverse."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], where: str = "The trace") -> Trace:
        """The trace in a JSON document. Anything missing or of the wrong kind is a PolicyError naming it."""
        check_header(dict(document), FORMAT, VERSION, PolicyError, where)
        columns: dict[str, Any] = {name: document.get(name) for name in COLUMNS}
        if columns["proposed"] is None:  # older traces hold D as decided only
            columns["proposed"] = columns["deviation"]
        for name, column in columns.items():
            if not isinstance(column, list) or not all(_is_entry(entry) for entry in column):
                raise PolicyError(f"{where} has no usable column {name!r}; save it again from a run.")
        steps = {name: len(column) for name, column in columns.items() if name != "sigmas"}
        if len(set(steps.values())) != 1 or steps["t_star"] > len(columns["sigmas"]) - 1:
            raise PolicyError(f"The columns of {where} differ in length ({steps}); save it again from a run.")
        return cls(**columns, policy=document.get("policy", {}), retiming=document.get("retiming", {}))

    def save(self, path: str | Path) -> Path:
        """Write the trace as JSON, atomically."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote; failures are PolicyErrors."""
        return cls.from_dict(read_json(path, PolicyError), str(path))


def mean(entry: Entry) -> float:
    """The entry itself, or its mean over the batch."""
    return fmean(entry) if isinstance(entry, list) else entry


def _is_entry(entry: Any) -> bool:
    """A number (or truth value), or a list with one per sample."""
    if isinstance(entry, list):
        return len(entry) > 0 and all(isinstance(item, int | float) for item in entry)
    return isinstance(entry, int | float)
