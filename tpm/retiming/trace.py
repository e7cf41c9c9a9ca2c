"""What one run decided, step by step: small, printable, saved as JSON, and replayable (`policies.Recorded`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from ..documents import STRICT, build, check_name
from ..errors import AsyncDiffError, PolicyError
from ..files import check_header, read_json, write_json
from .contract import check_backbone_name, check_bound
from .equations import DEFAULT_BOUND, check_points, same_point
from .settings import Retiming

FORMAT, VERSION = "asyncdiff-trace", 1
MOST_STEPS, MOST_SAMPLES = 10_000, 4096
COLUMNS = ("sigmas", "t_star", "deviation", "ratio", "clamped", "proposed")
NAMED = ("name", "bound", "backbone")

Entry: TypeAlias = float | list[float]


@dataclass
class TracePolicy:
    """What a trace says of the policy that decided it."""

    __pydantic_config__ = STRICT

    name: str = "recorded"
    bound: float = DEFAULT_BOUND
    backbone: str | None = None

    def __post_init__(self) -> None:
        check_bound(self.bound)
        check_backbone_name(self.backbone)
        check_name(self.name, PolicyError)


@dataclass
class Trace:
    """One run of K steps. A per-step entry is a number, or a list with one number per sample of the batch."""

    __pydantic_config__ = STRICT

    sigmas: list[float]  # the true grid t_0 … t_K, K + 1 points, on the line from 1 to 0 (see `clock`)
    t_star: list[Entry]  # the conditioning timestep of each step
    deviation: list[Entry]  # D as applied, (t* − t)/Δ, so after the clamp; 0 where the step was synchronous
    ratio: list[Entry]  # the action r in [0, 1]; 0.5 where no action was taken
    clamped: list[bool | list[bool]]  # whether a clamp cut the action off
    proposed: list[Entry]  # D as decided, before the clamp; equal to `deviation` where nothing was cut off
    policy: dict[str, Any] = field(default_factory=dict)
    retiming: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what else there is to know of the run, in sentences

    @property
    def steps(self) -> int:
        """K, the number of steps whose conditioning was decided; less than the grid's if the run was cut short."""
        return len(self.t_star)

    def mean_deviation(self) -> list[float]:
        """D of each step as decided, averaged over the batch: the paper's mean D is of the actions."""
        return [mean(entry) for entry in self.proposed]

    def after(self, before: Trace) -> Trace:
        """One trace of two parts of a run, where this one goes on where `before` ended; else this one alone."""
        goes_on = before.steps == len(before.sigmas) - 1 and same_point(before.sigmas[-1], self.sigmas[0])
        if not goes_on:
            return self
        both = {name: getattr(before, name) + getattr(self, name) for name in (*COLUMNS[1:], "notes")}
        return replace(self, sigmas=before.sigmas[:-1] + self.sigmas, **both)

    def to_dict(self) -> dict[str, Any]:
        """A JSON document; `from_dict` is its inverse."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], where: str = "The trace") -> Trace:
        """The trace in a JSON document. Anything missing or of the wrong kind is a PolicyError naming it."""
        check_header(dict(document), FORMAT, VERSION, PolicyError, where)
        columns = {name: document[name] for name in (*COLUMNS, "policy", "retiming", "notes") if name in document}
        if "deviation" in columns:
            columns.setdefault("proposed", columns["deviation"])  # older traces hold D as decided only
        trace = build(cls, columns, PolicyError, where)
        try:
            trace.check()
            named = {name: trace.policy[name] for name in NAMED if name in trace.policy}
            build(TracePolicy, named, PolicyError, "its policy")
            build(Retiming, trace.retiming, PolicyError, "its retiming")
        except AsyncDiffError as cause:
            raise PolicyError(f"{where}: {cause}") from cause
        return trace

    def check(self) -> None:
        """Raise PolicyError or GridError unless the columns fit each other and the grid."""
        check_points(self.sigmas)
        steps = {name: len(getattr(self, name)) for name in COLUMNS[1:]}
        if len(set(steps.values())) != 1 or self.steps > len(self.sigmas) - 1 or len(self.sigmas) > MOST_STEPS:
            raise PolicyError(f"The columns differ in length ({steps}); save the trace again from a run.")
        entries = [entry for name in COLUMNS[1:] for entry in getattr(self, name)]
        batches = {len(entry) for entry in entries if isinstance(entry, list)}
        if len(batches) > 1 or not all(1 <= size <= MOST_SAMPLES for size in batches):
            raise PolicyError(
                f"The steps are of batches of different sizes {sorted(batches)}; save it again from a run."
            )

        self.check_actions()

    def check_actions(self) -> None:
        """Raise PolicyError unless every action r is in [0, 1]."""
        if not all(0 <= r <= 1 for entry in self.ratio for r in (entry if isinstance(entry, list) else [entry])):
            raise PolicyError("A trace holds an action outside 0 … 1; save it again from a run.")

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
