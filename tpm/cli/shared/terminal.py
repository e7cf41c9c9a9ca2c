"""Output that every terminal can show: a letter that a stream cannot encode is written in letters that it can.

Consoles and pipes of Windows often have cp1252, a bare Linux has ASCII, and the commands print σ, γ and −. There Python
raises UnicodeEncodeError, after all sampling perhaps. A codec error handler replaces such letters instead: γ becomes
"gamma".
"""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import TextIO, TypeGuard

READABLE = "asyncdiff.readable"
"""The name of the error handler."""

FAILING = ("strict", "surrogateescape", "backslashreplace")
"""What Python gives streams by itself. Another one, as in PYTHONIOENCODING=ascii:replace, is the user's and stays."""

SIGNS = {
    "−": "-",
    "–": "-",
    "—": "-",
    "─": "-",
    "·": ".",
    "×": "x",
    "→": "->",
    "↔": "<->",
    "≤": "<=",
    "≥": ">=",
    "≲": "<~",
    "≈": "~",
    "±": "+-",
    "√": "sqrt",
    "∈": "in",
    "′": "'",
    "ʼ": "'",
    "‘": "'",
    "’": "'",
    "‚": "'",
    "‛": "'",
    "“": '"',
    "”": '"',
    "„": '"',
    "‟": '"',
    "⌈": "ceil(",
    "⌉": ")",
    "⁄": "/",
    "▁": "_",
    "æ": "ae",
    "Æ": "AE",
    "ø": "o",
    "Ø": "O",
    "ß": "ss",
}
"""Letters that Unicode itself has no simpler form for."""


def spelled(letter: str) -> str:
    """One letter in ASCII: γ is gamma, ² is ^2, é is e. What has no such form is an escape, as Python writes it."""
    if letter in SIGNS:
        return SIGNS[letter]
    name = unicodedata.name(letter, "")
    for kind, form in (("GREEK SMALL LETTER ", str.lower), ("GREEK CAPITAL LETTER ", str.capitalize)):
        if name.startswith(kind):
            return form(name[len(kind) :].split()[0])
    parts = [part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part)]
    if parts == [letter]:
        return letter.encode("ascii", "backslashreplace").decode()
    raised = {"<super>": "^", "<sub>": "_"}.get(unicodedata.decomposition(letter).split(" ")[0], "")
    return raised + "".join(map(spelled, parts))


def shown(text: str) -> str:
    """The text as standard output will show it. For what is aligned in columns: gamma is wider than γ."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if getattr(sys.stdout, "errors", None) != READABLE:
        return text
    return text.encode(encoding, READABLE).decode(encoding)


@contextmanager
def readable_output() -> Iterator[None]:
    """Within, printing never fails for want of a letter, on standard output and standard error."""
    before = [(stream, stream.errors) for stream in (sys.stdout, sys.stderr) if _may_fail(stream)]
    for stream, _ in before:
        stream.reconfigure(errors=READABLE)
    try:
        yield
    finally:
        for stream, errors in before:
            with suppress(ValueError, OSError):  # closed, or its reader is gone
                stream.reconfigure(errors=errors)


def leave_quietly() -> None:
    """The reader of our output, such as `head`, has seen enough: what is still buffered goes nowhere."""
    with suppress(OSError, ValueError):  # no file beneath the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _may_fail(stream: TextIO) -> TypeGuard[TextIOWrapper]:
    """Whether the stream encodes, may fail at that, and can be told otherwise. It is None in a windowed program."""
    return isinstance(stream, TextIOWrapper) and stream.errors in FAILING


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(spelled, error.object[error.start : error.end])), error.end


codecs.register_error(READABLE, _replace)
