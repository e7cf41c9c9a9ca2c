"""Files of prompts, and tables of images and prompts, as people have them: one reader for all commands and nodes.

Text: a prompt a line (T2I-CompBench's files are this). CSV and TSV: a column named prompt, caption or text, as
PartiPrompts' "Prompt" and DrawBench's "Prompts". JSON: a list of strings or of objects with such a key, or COCO
captions (`annotations`, each with a `caption`). JSON lines: one such entry a line. What cannot be read is refused with
a sentence: a table's header or a whole document must never be drawn as a prompt.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import AsyncDiffError
from .files import is_folder, parse_json, read_text

WORDS = ("prompt", "caption", "text")
"""What a column of prompts is called, the first that is there counts."""

NAMES = ("file", "file_name", "filename", "image", "path")
"""What a column of image files is called."""

Row = Mapping[str, Any]
Entry = str | Row


class PromptFileError(AsyncDiffError):
    """A file of prompts that cannot be used."""


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file in its order, without empty ones; a folder stands for all .txt files in it.

    Raises PromptFileError.
    """
    path = Path(path)
    if is_folder(path):
        files = sorted(path.glob("*.txt"))
        if not files:
            raise PromptFileError(f"There is no .txt file in {path}; give a file of prompts.")
        return [prompt for file in files for prompt in read_prompts(file)]
    prompts = [_prompt_of(path, entry).strip() for entry in read_entries(path)]
    if not any(prompts):
        raise PromptFileError(f"{path} holds no prompts; give one prompt a line.")
    return [prompt for prompt in prompts if prompt]


def read_named_prompts(path: str | Path) -> list[tuple[str, str]]:
    """(image file, prompt) of every row of a table, or of a JSON object {file: prompt}. Raises PromptFileError."""
    path = Path(path)
    pairs = []
    for entry in read_entries(path):
        if isinstance(entry, str):
            raise PromptFileError(f"{path} does not have a file and a prompt in every row: {entry[:60]!r}; mend it.")
        pairs.append((_value(path, entry, NAMES), _value(path, entry, WORDS)))
    return pairs


def is_table(path: Path) -> bool:
    """Whether a file of this name holds rows, so that its images can be named in it."""
    return path.suffix.lower() in TABLES


def read_entries(path: Path) -> Sequence[Entry]:
    """What a file holds: strings, or rows by column. Raises PromptFileError."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(suffix for suffix in READERS if suffix)
        raise PromptFileError(f"{path}: files of prompts are {known}; save it as one of these.")
    text = read_text(path, PromptFileError)
    if re.search(r"[\x00-\x08\x0e-\x1f]", text):
        raise PromptFileError(f"{path} holds control characters, so it is no text; save it as UTF-8 text.")
    return reader(path, text)


# --- formats ------------------------------------------------------------------------------------------------------


def _from_text(path: Path, text: str) -> Sequence[Entry]:
    """A prompt a line; but a whole JSON document under the name of a text is read as that."""
    if text.lstrip()[:1] in ("[", "{"):
        with suppress(PromptFileError):
            return _from_json(path, text)
        with suppress(PromptFileError):
            return _from_json_lines(path, text)
    return _lines(text)


def _from_table(path: Path, text: str) -> list[Row]:
    """The rows of a CSV or TSV, by column."""
    header = next(iter(_lines(text)), "")
    mark = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    try:
        rows = _records(text, mark, csv.QUOTE_MINIMAL)
    except csv.Error as cause:
        if mark != "\t":
            raise PromptFileError(
                f"{path} is no well-formed table ({cause}); put prompts with commas or line breaks in double quotes."
            ) from cause
        rows = _records(text, mark, csv.QUOTE_NONE)  # tab-separated files often quote nothing
    names, *cells = rows or [[]]
    for number, row in enumerate(cells, start=2):
        if len(row) != len(names):
            raise PromptFileError(
                f"{path}: row {number} has {len(row)} cells, the header {len(names)}; put a prompt with a separator in"
                " it in double quotes."
            )
    return [dict(zip(names, row, strict=True)) for row in cells]


def _records(text: str, mark: str, quoting: Any) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, quoting=quoting, strict=True)
    return [row for row in reader if any(cell.strip() for cell in row)]


def _from_json(path: Path, text: str) -> list[Entry]:
    document = parse_json(text, PromptFileError, str(path))
    if isinstance(document, dict):
        named = document.get("annotations", document.get("prompts"))
        of_files = named is None and all(Path(name).suffix for name in document)
        document = [{"file": file, "prompt": prompt} for file, prompt in document.items()] if of_files else named
    if not isinstance(document, list):
        raise PromptFileError(f"{path} holds neither a list of prompts nor COCO captions; give one of these.")
    return [_checked(path, entry) for entry in document]


def _from_json_lines(path: Path, text: str) -> list[Entry]:
    lines = [(number, line) for number, line in enumerate(_lines(text), start=1) if line.strip()]
    return [_checked(path, parse_json(line, PromptFileError, f"{path}, line {number}")) for number, line in lines]


def _lines(text: str) -> list[str]:
    """Split at line breaks only: other separators of Unicode may stand in a prompt."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


READERS: Mapping[str, Callable[[Path, str], Sequence[Entry]]] = {
    "": _from_text,
    ".txt": _from_text,
    ".csv": _from_table,
    ".tsv": _from_table,
    ".json": _from_json,
    ".jsonl": _from_json_lines,
    ".ndjson": _from_json_lines,
}
TABLES = tuple(suffix for suffix, reader in READERS.items() if reader is not _from_text)


# --- entries ------------------------------------------------------------------------------------------------------


def _checked(path: Path, entry: Any) -> Entry:
    if not isinstance(entry, str | dict):
        raise PromptFileError(f"{path} has an entry that is no text: {str(entry)[:60]}; give prompts in quotes.")
    return entry


def _prompt_of(path: Path, entry: Entry) -> str:
    return entry if isinstance(entry, str) else _value(path, entry, WORDS)


def _value(path: Path, row: Row, names: Sequence[str]) -> str:
    """The text in the first of these columns; a column's case, plural and brackets do not matter."""
    columns: dict[str, str] = {}
    for column in row:
        columns.setdefault(_plain(str(column)), column)
    found = next((columns[_plain(name)] for name in names if _plain(name) in columns), None)
    if found is None:
        listed = ", ".join(map(str, row))[:80] or "nothing"
        raise PromptFileError(f"{path} has no column named {', '.join(names[:-1])} or {names[-1]} (it has {listed}).")
    if not isinstance(row[found], str):
        raise PromptFileError(f"{path} has a {found!r} that is not text: {str(row[found])[:60]}; mend it.")
    return row[found]


def _plain(name: str) -> str:
    """A column's name without case, plural and brackets: "Prompt(s)" is "prompt"."""
    return re.sub(r"[\W_]", "", name.lower()).removesuffix("s")
