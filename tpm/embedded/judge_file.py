"""The file that holds a pipeline's judge, and which world it is of. It imports no torch."""

from __future__ import annotations

from pathlib import Path

from ..errors import AsyncDiffError
from ..files import weights_header

FILE = "judge.safetensors"
EASY = "easy"
MOST_OBJECTS = {EASY: 2, "hard": 3}
"""In a picture, by world."""


def world_name(folder: Path) -> str:
    """The world that the pipeline in ``folder`` was trained on, as its judge's file says; the easy one without a word.

    Raises AsyncDiffError for a file that cannot be read, and for a world that this version does not know.
    """
    file = folder / FILE
    try:
        name = str((weights_header(file).get("__metadata__") or {}).get("world", EASY))
    except (OSError, ValueError, AttributeError) as error:
        raise AsyncDiffError(f"The judge {file} cannot be read ({error}); reinstall the package.") from error
    if name not in MOST_OBJECTS:
        raise AsyncDiffError(f"{file} judges the world {name!r}; this version knows {', '.join(MOST_OBJECTS)}.")
    return name
