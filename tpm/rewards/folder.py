"""The images of a folder and their prompts, read from the files that people have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from ..files import is_file, is_folder
from ..prompt_files import PromptFileError, is_table, read_entries, read_named_prompts
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

    A table (.csv, .tsv, .json, .jsonl: a file and a prompt in every row, or JSON {file: prompt}) chooses the images
    that it names. Any other file is text: one line for all images, or one line per image in the order of their names.
    Raises RewardError: no images, unreadable file, counts that differ, an image that does not exist.
    """
    if not is_folder(folder):
        raise RewardError(f"There is no folder {folder}; check the path.")
    try:
        return _listed(folder, prompts)
    except PromptFileError as cause:
        raise RewardError(str(cause)) from cause


def _listed(folder: Path, prompts: Path | None) -> list[Item]:
    if prompts is not None and is_table(prompts):
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
    """One prompt for each image. A line may be empty, so that the count holds."""
    lines = [entry for entry in read_entries(file) if isinstance(entry, str)]
    if len(lines) not in (1, count):
        raise RewardError(f"{file} has {len(lines)} prompts for {count} images; give one line for all, or one each.")
    return lines * count if len(lines) == 1 else lines


def _named(folder: Path, file: Path) -> list[Item]:
    items = [Item(name, folder / name, prompt) for name, prompt in read_named_prompts(file)]
    missing = [item.name for item in items if not is_file(item.path)]
    if missing:
        raise RewardError(f"{file} names images that are not in {folder}: {some(missing)}.")
    twice = len(items) - len({item.name for item in items})
    if twice or not items:
        problem = "names an image twice" if twice else "names no images"
        raise RewardError(f"{file} {problem}; give each image one row.")
    return items
