"""The policies in a picture's metadata: what `shared` wrote, read back from PNG, animated PNG and WebP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PolicyError
from ..files import parse_json
from ..images import opened
from .shared import SharedRun, runs_from

if TYPE_CHECKING:
    from PIL.Image import Image

KEY = "asyncdiff"
"""The name of the entry, beside "workflow" and "prompt"."""

MOST_LETTERS = 2**20  # of an entry that is read; what is written has 64 kB
MOST_FRAMES = 1000
PRIVATE_CHUNK = b"comf"  # where ComfyUI puts the metadata of an animated PNG


def runs_in(path: str | Path) -> dict[str, SharedRun]:
    """The runs that made a picture, by the number of their node.

    Raises PolicyError: no picture, one that holds no policy, one whose entry is damaged.
    """
    where = f"The picture {Path(path).name[:100]}"
    with opened(path, PolicyError) as image:
        text = next(_entries(image), None)
    if text is None:
        raise PolicyError(
            f"{where} holds no policy of AsyncDiff: no asynchronous sampler made it, or the metadata was taken out of"
            " it, as many sites and messengers do. Ask for the original file."
        )
    if len(text) > MOST_LETTERS:
        raise PolicyError(f"{where} holds a policy of {len(text):,} letters, more than any that was written; refused.")
    runs = runs_from(parse_json(text, PolicyError, f"The policy in {Path(path).name[:100]}"), where)
    if not runs:
        raise PolicyError(
            f"{where} was made by no asynchronous sampler, so it holds no policy; choose another picture."
        )
    return runs


def chosen(runs: dict[str, SharedRun], number: str) -> SharedRun:
    """The run of the node with this number; "": the only one, or one of several that decided alike."""
    number = number.strip()
    if number in runs:
        return runs[number]
    listed = "; ".join(f"{node[:20]}: {run.name[:60]} in {run.node[:60] or 'a node'}" for node, run in runs.items())
    if number:
        raise PolicyError(f"The picture has no sampler {number[:20]!r}. It has {listed}.")
    first, *others = runs.values()
    if any((other.policy, other.trace) != (first.policy, first.trace) for other in others):
        raise PolicyError(f'Several samplers made this picture: {listed}. Write the number of one into "sampler".')
    return first


def _entries(image: Image) -> Iterator[str]:
    """What stands under the key wherever ComfyUI writes metadata; the pixels are read only where it may stand after."""
    text = image.info.get(KEY)
    if isinstance(text, str):
        yield text
    for value in image.getexif().values():
        if isinstance(value, str) and value.startswith(f"{KEY}:"):
            yield value.removeprefix(f"{KEY}:")
    if image.format == "PNG":
        image.seek(min(getattr(image, "n_frames", 1), MOST_FRAMES) - 1)  # what stands after the pixels is read then
        image.load()
        text = image.info.get(KEY)
        if isinstance(text, str):
            yield text
        yield from _in_private_chunks(image)


def _in_private_chunks(image: Any) -> Iterator[str]:
    for kind, data, *_ in getattr(image, "private_chunks", []):
        if kind == PRIVATE_CHUNK and data.startswith(KEY.encode() + b"\0"):
            yield data[len(KEY) + 1 :].decode("latin-1")
