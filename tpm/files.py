"""Reading and writing small files: atomic writes, and failures as sentences."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .errors import AsyncDiffError

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
"""The files that the pack ships."""

EMBEDDED_FOLDER = WEIGHTS / "tiny-sd35"
"""The embedded pipeline, in diffusers' layout."""


def write_atomically(path: str | Path, data: bytes) -> Path:
    """Write `data` so that `path` holds either its old content or all of the new, never a part of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def write_json(path: str | Path, document: dict[str, Any]) -> Path:
    """Write a JSON document atomically, readable by people. NaN and infinity raise ValueError (not valid JSON)."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return write_atomically(path, (text + "\n").encode())


def read_json(path: str | Path, error: type[AsyncDiffError]) -> dict[str, Any]:
    """The JSON object in `path`; anything else raises `error` with a sentence."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"There is no file {path}; check the path.") from None
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror}); check its permissions.") from cause
    except ValueError as cause:
        raise error(f"{path} is not valid JSON (truncated or another kind of file?); get the file again.") from cause
    if not isinstance(document, dict):
        raise error(f"{path} holds JSON, but not an object; get a file that this project wrote.")
    return document


def check_header(document: dict[str, Any], kind: str, version: int, error: type[AsyncDiffError], where: str) -> None:
    """Raise `error` unless the document says it is a `kind` of a version that this release can read."""
    if document.get("format") != kind:
        raise error(f"{where} is not a {kind} file (its format is {document.get('format')!r}); give another file.")
    found = document.get("version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise error(f"{where} does not say which version of the {kind} format it has; get the file again.")
    if found > version:
        raise error(f"{where} has {kind} version {found}, this release reads up to {version}; update asyncdiff.")
