"""What a picture says of the run that made it: its policy and its decisions, small enough for a picture's metadata.

A policy that is a formula is there whole. A TPM is there by the hash of its file and its card; its decisions are in
the trace, which `Recorded` repeats without the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..documents import STRICT, as_object, build
from ..errors import PolicyError
from ..files import check_header, megabytes, sha256_of
from ..retiming.contract import Policy
from ..retiming.trace import COLUMNS, NAMED, Entry, Trace
from .checkpoint import TPMFile
from .files import load_policy, policy_from_dict
from .learned import READOUTS, Learned
from .recorded import Recorded

FORMAT, VERSION = "asyncdiff-picture", 1
MOST_BYTES = 64 * 2**10  # of all runs of a picture, as JSON
MOST_OF_A_RUN = 48 * 2**10
MOST_OF_A_CARD = 4 * 2**10
MOST_RUNS = 256
WHOLE = ("constant", "curve")  # the kinds of policies that are written as they are
DERIVED = ("t_star", "deviation", "proposed")  # columns that a replay does not read


@dataclass(frozen=True)
class SharedRun:
    """One run of one node."""

    __pydantic_config__ = STRICT

    policy: dict[str, Any]  # the policy's document, or what names it
    trace: dict[str, Any] | None = None
    file: TPMFile | None = None  # of a TPM that was loaded from one
    node: str = ""  # the kind of node that sampled
    runs: int = 1  # how often it did; the trace is of the last time
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """A JSON document; `runs_from` is its inverse."""
        return asdict(self)

    def decisions(self) -> Recorded:
        """The policy that repeats what was decided. Raises PolicyError where the picture does not say it."""
        if self.trace is None:
            raise PolicyError(" ".join(["This picture holds no decisions.", *self.notes]))
        return Recorded(Trace.from_dict(self.trace, "The trace of the picture"), name=self.name)

    @property
    def name(self) -> str:
        """The policy's."""
        return str(self.policy.get("name", "recorded"))


def shared_run(policy: Policy, trace: Trace, node: str = "", runs: int = 1) -> SharedRun:
    """What to write of a run, at most MOST_OF_A_RUN bytes unless the policy alone has more.

    The decisions of a large batch are cut to its first images; a note says so.
    """
    run = SharedRun(_named(policy), None, getattr(policy, "file", None), node, runs)
    images = max((len(entry) for entry in trace.ratio if isinstance(entry, list)), default=1)
    kept = images
    while kept:
        notes = (
            [] if kept == images else [f"The batch had {images} images; the decisions of its first {kept} are kept."]
        )
        whole = replace(run, trace=_slim(trace, kept), notes=notes)
        if size_of(whole) <= MOST_OF_A_RUN:
            return whole
        kept //= 2
    return without_trace(run)


def without_trace(run: SharedRun) -> SharedRun:
    """The run without its decisions, which a note says."""
    return replace(run, trace=None, notes=["The decisions were left out: they are too long for a picture."])


def size_of(run: SharedRun) -> int:
    """Bytes as JSON."""
    return len(json.dumps(run.to_dict()))


def to_document(runs: Mapping[str, SharedRun]) -> dict[str, Any]:
    """The document of several runs by the number of their node."""
    return {"format": FORMAT, "version": VERSION, "samplers": {node: run.to_dict() for node, run in runs.items()}}


def runs_from(document: Any, where: str) -> dict[str, SharedRun]:
    """The runs in a document. Raises PolicyError for anything that this project did not write."""
    made = as_object(document, PolicyError, where)
    check_header(dict(made), FORMAT, VERSION, PolicyError, where)
    samplers = as_object(made.get("samplers"), PolicyError, f"The list of samplers in {where}")
    if len(samplers) > MOST_RUNS:
        raise PolicyError(f"{where} says that {len(samplers)} samplers made it; up to {MOST_RUNS} are read.")
    return {node: build(SharedRun, entry, PolicyError, where) for node, entry in samplers.items()}


def restored(run: SharedRun, files: Iterable[Path]) -> Policy:
    """The policy of a run; a TPM from the one of these files that it was, a recording from the decisions.

    Raises PolicyError where the TPM's file is not among them: it says which, and that the decisions are there.
    """
    kind = run.policy.get("kind")
    if kind in WHOLE:
        return policy_from_dict(run.policy, "The policy of the picture")
    if kind != "learned":
        return run.decisions()
    found = _find(run.file, files)
    if found is None:
        raise PolicyError(_missing(run))
    policy = load_policy(found)
    if isinstance(policy, Learned) and run.policy.get("readout") in READOUTS:
        policy.readout = run.policy["readout"]
    return policy


def _find(file: TPMFile | None, files: Iterable[Path]) -> Path | None:
    if file is None:
        return None
    alike = (path for path in files if path.suffix == ".safetensors" and path.stat().st_size == file.size)
    return next((path for path in alike if sha256_of(path) == file.sha256), None)


def _missing(run: SharedRun) -> str:
    """What a friend needs to get."""
    card = run.policy.get("card")
    made_for = card.get("backbone") if isinstance(card, Mapping) else run.policy.get("backbone")
    file = run.file
    which = (
        f"the file {file.name[:100]} ({megabytes(file.size)}, sha256 {file.sha256[:64]})"
        if file
        else "a TPM that was never saved to a file"
    )
    instead = (
        'or set "use" to "recorded decisions" to repeat the picture without it.'
        if run.trace
        else "for the picture holds no decisions that could take its place."
    )
    return (
        f"The picture was made by the TPM {run.name[:100]!r} for {made_for or 'any model'}: {which}. No file in"
        f" models/tpm is the same one. Get it and put it there, {instead}"
    )


def _named(policy: Policy) -> dict[str, Any]:
    """The policy's document: whole for a formula, without the trace of a recording, a TPM with its card."""
    document = policy.to_dict()
    if document.get("kind") in WHOLE:
        return document if len(json.dumps(document)) <= MOST_OF_A_RUN else document | {"about": {}}
    kept = {name: document[name] for name in ("kind", *NAMED, "readout") if name in document}
    card = document.get("card")
    if card:
        small = len(json.dumps(card)) <= MOST_OF_A_CARD
        kept["card"] = card if small else {name: card[name] for name in ("name", "backbone", "bound")}
    return kept


def _slim(trace: Trace, images: int) -> dict[str, Any]:
    """The trace of the first images, without what its policy says elsewhere; derived columns with six digits."""
    document = trace.to_dict()
    for name in COLUMNS[1:]:
        document[name] = [entry[:images] if isinstance(entry, list) else entry for entry in document[name]]
    for name in DERIVED:
        document[name] = [_short(entry) for entry in document[name]]
    document["policy"] = {name: trace.policy[name] for name in NAMED if name in trace.policy}
    return document


def _short(entry: Entry) -> Entry:
    return [float(f"{value:.6g}") for value in entry] if isinstance(entry, list) else float(f"{entry:.6g}")
