"""Reading and writing small files: atomic writes, and failures as sentences."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import shutil
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import AsyncDiffError

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
"""The files that the pack ships."""

EMBEDDED_FOLDER = WEIGHTS / "tiny-sd35"
"""The embedded pipeline, in diffusers' layout."""

PART = ".part"
"""How the name of a half-written file ends."""

HOST = socket.gethostname()
PROCESS = f"{HOST}-{os.getpid()}"

MOST_TEXT = 256 * 2**20
"""The most bytes of a text or document that is read: COCO's captions have 90 MB."""

MOST_HEADER = 2**26
"""The most bytes of a weights file's header that are read."""


class WriteError(AsyncDiffError):
    """A file could not be written; its old content is still there."""


def write_atomically(path: str | Path, data: bytes) -> Path:
    """Write `data` so that `path` holds either its old content or all of the new, never a part of it.

    What a killed process left half-written beside it is removed. Raises WriteError: no room, no permission, no such
    place.
    """
    path, part = Path(path), None
    try:
        part = path.with_name(f".{path.name[:150]}.{PROCESS}-{threading.get_ident()}{PART}")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, ValueError) as cause:
        raise WriteError(_why_not_written(path, len(data), cause)) from cause
    finally:
        if part is not None:
            with suppress(OSError, ValueError):  # it is there only where the writing did not come to its end
                part.unlink(missing_ok=True)
    return path


def _remove_abandoned(path: Path) -> None:
    """Remove what processes of this machine that are no more left half-written for `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name[:150])}.{glob.escape(HOST)}-*{PART}"):
        number = left.name.removesuffix(PART).split(f"{HOST}-")[-1].split("-")[0]
        if number.isdecimal() and not _is_alive(int(number)):
            left.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # where there is no harmless signal
        return True
    try:
        os.kill(process, 0)  # signal 0 asks and does nothing
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and another user's; or this system cannot tell
        return True
    return True


def _why_not_written(path: Path, size: int, cause: OSError | ValueError) -> str:
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        return (
            f"There is no room on the disk for {path}: it needs {megabytes(size)}, and {megabytes(free)} are free. Free"
            " some and start again; what was written before is kept."
        )
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return f"{shortened(path)} cannot be written ({reason}); choose another place."


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


def weights_header(path: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors, and of itself under "__metadata__"; no weights are read.

    Raises OSError, and ValueError where the file is not of that format.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(path.stat().st_size, MOST_HEADER):
            raise ValueError("it is not a safetensors file")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("it is not a safetensors file")
    return header


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    made = hashlib.sha256()
    with Path(path).open("rb") as file:
        while part := file.read(2**20):
            made.update(part)
    return made.hexdigest()


def is_file(path: str | Path) -> bool:
    """Whether there is an ordinary file; False also for names that no file can have, where `Path.is_file` raises."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder; False also for names that no folder can have, where `Path.is_dir` raises."""
    return os.path.isdir(path)  # noqa: PTH112


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
