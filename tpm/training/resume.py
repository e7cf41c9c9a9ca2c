"""The state of a training run on disk: atomic, complete, and refused when it belongs to another run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from ..errors import AsyncDiffError
from ..files import check_file, write_atomically
from .distributed import Processes

FORMAT, VERSION = "asyncdiff-training", 1
MARK, DIGEST = b"asyncdiff-state 1 sha256\n", 32
MOST_BYTES = 2**33


class ResumeError(AsyncDiffError):
    """A run cannot be continued."""


def save_state(path: Path, facts: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, with the facts that a run must share to go on from them, behind a checksum."""
    data = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, "facts": json.dumps(facts), **state}, data)
    write_atomically(path, MARK + sha256(data.getvalue()).digest() + data.getvalue())


def load_state(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What `save_state` wrote, if its facts are these. Raises ResumeError."""
    check_file(path, ResumeError, MOST_BYTES)
    try:
        state = torch.load(io.BytesIO(_intact(path)), map_location="cpu", weights_only=True)
    except Exception as cause:  # torch raises many kinds for damaged files
        raise ResumeError(f"{path} is damaged; remove it to start anew.") from cause
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ResumeError(f"{path} is no training state of this project; give another folder.")
    if state.get("version") != VERSION:
        raise ResumeError(f"{path} was written by another release (version {state.get('version')}); use that one.")
    changed = differences(json.loads(state["facts"]), json.loads(json.dumps(facts)))
    if changed:
        raise ResumeError(
            f"The run in {path.parent} cannot go on, because {'; '.join(changed[:3])}. Give the old values back, or"
            " start anew in another folder."
        )
    return state


def _intact(path: Path) -> bytes:
    """The content of a state, whose checksum holds. Releases before 0.2 wrote none."""
    data = path.read_bytes()
    if not data.startswith(MARK):
        return data
    kept, content = data[len(MARK) :][:DIGEST], data[len(MARK) + DIGEST :]
    if sha256(content).digest() != kept:
        raise ResumeError("The checksum does not fit.")
    return content


def resumed(processes: Processes, path: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state that the leading process finds, for all processes; None where there is none. Raises ResumeError."""
    return processes.run_everywhere(
        lambda: (load_state(path, facts) if processes.is_main and path.is_file() else None,)
    )[0][0]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences that say what was changed."""
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{name} was {_short(before.get(name))} and is now {_short(now.get(name))}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
