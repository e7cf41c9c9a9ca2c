"""The images of a folder and their prompts, read from the files that people have."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from .base import RewardError, some

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Item:
    """An image file and its prompt; ``name`` is its path in the folder."""

    name: str
    path: Path
    prompt: str

    def digest(self) -> str:
        """What tells whether the file is still the same."""
        return hashlib.blake2b(self.path.read_bytes(), digest_size=8).hexdigest()


class Pictures(Sequence["Image"]):
    """The items as RGB pictures, opened when they are asked for."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Image: ...

    @overload
    def __getitem__(self, index: slice) -> list[Image]: ...

    def __getitem__(self, index: int | slice) -> Image | list[Image]:
        from .pictures import open_picture

        if isinstance(index, slice):
            return [open_picture(item.path) for item in self._items[index]]
        return open_picture(self._items[index].path)


def list_items(folder: Path, prompts: Path | None = None) -> list[Item]:
    """The images of ``folder`` and its subfolders by name, with the prompts of a file ("" without one).

    A ``.csv`` (columns file and prompt) or ``.json`` (file to prompt, or a list of such rows) chooses the images that
    it names. Any other file is text: one line for all images, or one line per image in the order of their names.
    Raises RewardError: no images, unreadable file, counts that differ, an image that does not exist.
    """
    if not folder.is_dir():
        raise RewardError(f"There is no folder {folder}; check the path.")
    if prompts is not None and prompts.suffix.lower() in (".csv", ".json"):
        return _named(folder, prompts)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if _is_image(path, folder))
    if not names:
        raise RewardError(f"There are no images in {folder} ({', '.join(SUFFIXES)}); check the path.")
    lines = _lines(prompts, len(names)) if prompts is not None else [""] * len(names)
    return [Item(name, folder / name, prompt) for name, prompt in zip(names, lines, strict=True)]


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def _lines(file: Path, count: int) -> list[str]:
    lines = _text(file).splitlines()
    if len(lines) not in (1, count):
        raise RewardError(f"{file} has {len(lines)} prompts for {count} images; give one line for all, or one each.")
    return lines * count if len(lines) == 1 else lines


def _named(folder: Path, file: Path) -> list[Item]:
    pairs = _pairs(file)
    items = [Item(name, folder / name, prompt) for name, prompt in pairs]
    missing = [item.name for item in items if not item.path.is_file()]
    if missing:
        raise RewardError(f"{file} names images that are not in {folder}: {some(missing)}.")
    twice = len(items) - len({item.name for item in items})
    if twice or not items:
        problem = "names an image twice" if twice else "names no images"
        raise RewardError(f"{file} {problem}; give each image one row.")
    return items


def _pairs(file: Path) -> list[tuple[str, str]]:
    """(file, prompt) of every row."""
    text = _text(file)
    try:
        rows = list(csv.DictReader(io.StringIO(text))) if file.suffix.lower() == ".csv" else json.loads(text)
        if isinstance(rows, Mapping):
            rows = [{"file": name, "prompt": prompt} for name, prompt in rows.items()]
        pairs = [(row["file"], row["prompt"]) for row in rows]
    except (ValueError, KeyError, TypeError, csv.Error) as cause:
        raise RewardError(f"{file} does not have a file and a prompt in every row ({cause}); mend it.") from cause
    if not all(isinstance(value, str) for pair in pairs for value in pair):
        raise RewardError(f"{file} has a row whose file or prompt is not text; mend it.")
    return pairs


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RewardError(f"There is no file {file}; check the path.") from None
    except (OSError, UnicodeDecodeError) as cause:
        raise RewardError(f"{file} cannot be read as text ({cause}); save it as UTF-8.") from cause
