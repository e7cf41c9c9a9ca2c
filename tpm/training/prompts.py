"""Prompts from files as they are published, and the order in which training meets them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..errors import AsyncDiffError
from .studio import derive

COLUMNS = ("prompt", "caption", "text")


class PromptFileError(AsyncDiffError):
    """A file of prompts that cannot be used."""


@dataclass
class PromptOrder:
    """Every prompt once per epoch, shuffled anew each time. A function of (seed, position): nothing to save."""

    prompts: Sequence[str]
    seed: int
    _epochs: dict[int, list[int]] = field(default_factory=dict, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """Tells one list of prompts from another: how many, and a hash."""
        return f"{len(self.prompts)} prompts, {derive(*self.prompts):016x}"

    def __getitem__(self, position: int) -> str:
        """The prompt at this position of the endless sequence."""
        epoch, place = divmod(position, len(self.prompts))
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(derive(self.seed, "prompts", epoch))
            self._epochs = {epoch: torch.randperm(len(self.prompts), generator=generator).tolist()}
        return self.prompts[self._epochs[epoch][place]]


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file, in its order.

    Text: a prompt a line (T2I-CompBench's files are this). CSV: a column named prompt, caption or text. JSON: a list of
    strings or of objects with such a key, or COCO captions (`annotations`, each with a `caption`). A folder stands for
    all .txt files in it. Raises PromptFileError.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise PromptFileError(f"There is no .txt file in {path}; give a file of prompts.")
        return [prompt for file in files for prompt in read_prompts(file)]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PromptFileError(f"There is no file {path}; check the path.") from None
    except (OSError, UnicodeDecodeError) as cause:
        raise PromptFileError(f"{path} cannot be read as UTF-8 text ({cause}); save it as UTF-8.") from cause
    prompts = [prompt.strip() for prompt in _parse(path, text)]
    if not any(prompts):
        raise PromptFileError(f"{path} holds no prompts; give one prompt a line.")
    return [prompt for prompt in prompts if prompt]


def _parse(path: Path, text: str) -> list[str]:
    if path.suffix == ".csv":
        return _from_csv(path, text)
    if path.suffix == ".json":
        return _from_json(path, text)
    return text.splitlines()


def _from_csv(path: Path, text: str) -> list[str]:
    rows = csv.DictReader(text.splitlines())
    column = next((name for name in COLUMNS if name in (rows.fieldnames or ())), None)
    if column is None:
        raise PromptFileError(f"{path} has no column named {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}; name one so.")
    return [row[column] or "" for row in rows]


def _from_json(path: Path, text: str) -> list[str]:
    try:
        document = json.loads(text)
    except ValueError as cause:
        raise PromptFileError(f"{path} is not valid JSON ({cause}); get the file again.") from cause
    entries = document.get("annotations", document.get("prompts")) if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise PromptFileError(f"{path} holds neither a list of prompts nor COCO captions; give one of these.")
    return [_text_of(path, entry) for entry in entries]


def _text_of(path: Path, entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    text = next((entry[name] for name in COLUMNS if name in entry), None) if isinstance(entry, dict) else None
    if not isinstance(text, str):
        raise PromptFileError(f"{path} has an entry without a {COLUMNS[0]} or {COLUMNS[1]}: {str(entry)[:60]}.")
    return text
