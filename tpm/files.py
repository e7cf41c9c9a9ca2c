"""Reading and writing small files: atomic writes, and failures as sentences."""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from .errors import AsyncDiffError

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
"""The files that the pack ships."""

EMBEDDED_FOLDER = WEIGHTS / "tiny-sd35"
"""The embedded pipeline, in diffusers' layout."""

MOST_TEXT = 256 * 2**20
"""The most bytes of a text or document that is read: COCO's captions have 90 MB."""


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


def read_text(path: str | Path, error: type[AsyncDiffError], most: int = MOST_TEXT) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark, or in UTF-16 with one.

    Raises `error` with a sentence where there is none: see `check_file`.
    """
    check_file(path, error, most)
    try:
        data = Path(path).read_bytes()
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"{path} cannot be read as UTF-8 text ({cause.reason}); save it as UTF-8.") from cause
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror}); check its permissions.") from cause


def check_file(path: str | Path, error: type[AsyncDiffError], most: int) -> None:
    """Raise `error` unless `path` is an ordinary file of at most `most` bytes.

    A pipe or a device could make a reader wait for ever, and a sparse file of gigabytes could fill the memory.
    """
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        raise error(f"There is no file {path}; check the path.") from None
    except ValueError as cause:  # a NUL in the name
        raise error(f"{str(path)!r} cannot be the name of a file ({cause}); check the path.") from None
    except OSError as cause:  # a loop of links, a name that is too long, a folder that is closed
        raise error(f"{shortened(path)} cannot be read ({cause.strerror}); check the path.") from cause
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise error(f"{path} is {what}, not a file; give a file.")
    if found.st_size > most:
        sizes = f"{megabytes(found.st_size)}, more than the {megabytes(most)} that are read"
        raise error(f"{path} has {sizes}; give a smaller file.")


def read_json(path: str | Path, error: type[AsyncDiffError]) -> dict[str, Any]:
    """The JSON object in `path`; anything else raises `error` with a sentence."""
    document = parse_json(read_text(path, error), error, str(path))
    if not isinstance(document, dict):
        raise error(f"{path} holds JSON, but not an object; get a file that this project wrote.")
    return document


def parse_json(text: str, error: type[AsyncDiffError], where: str) -> Any:
    """A JSON document with finite numbers, whole ones below 2⁶³; anything else raises `error` with a sentence."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    except _NumberError as cause:
        raise error(f"{where} holds {cause}; correct it.") from None
    except RecursionError:
        raise error(f"{where} is nested too deeply to be a document of this project; get the file again.") from None
    except ValueError as cause:
        raise error(f"{where} is not valid JSON (truncated or another kind of file?); get the file again.") from cause


class _NumberError(Exception):
    """A number that no document of ours holds. Not a ValueError, which stands for broken JSON."""


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NumberError(f"{text[:20]}, which is not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= 2**63:
        raise _NumberError(f"a whole number of {len(text)} digits, more than a computer's 63 bits")
    return int(text)


def megabytes(size: int) -> str:
    """A number of bytes for messages: 1.5 MB."""
    return f"{size / 1e6:,.1f} MB"


def shortened(path: str | Path) -> str:
    """A path for messages, its middle left out where it is long."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}…{text[-60:]}"


def check_header(document: dict[str, Any], kind: str, version: int, error: type[AsyncDiffError], where: str) -> None:
    """Raise `error` unless the document says it is a `kind` of a version that this release can read."""
    if document.get("format") != kind:
        raise error(f"{where} is not a {kind} file (its format is {document.get('format')!r}); give another file.")
    found = document.get("version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise error(f"{where} does not say which version of the {kind} format it has; get the file again.")
    if found > version:
        raise error(f"{where} has {kind} version {found}, this release reads up to {version}; update asyncdiff.")
