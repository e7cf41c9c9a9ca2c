"""Which world a pipeline folder belongs to, and its judge."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from ..errors import AsyncDiffError
from .detector import Detector
from .judge import FILE, Judge, JudgeNetwork
from .worlds import EASY, WORLDS, World

JUDGES: dict[str, type[JudgeNetwork]] = {judge.world: judge for judge in (Judge, Detector)}


def world_of(folder: Path) -> World:
    """The world that the pipeline in ``folder`` was trained on, as its judge's file says; the easy one without a word.

    Raises AsyncDiffError for a file that cannot be read, and for a world that this version does not know.
    """
    file = folder / FILE
    try:
        with safe_open(file, framework="pt") as opened:
            name = (opened.metadata() or {}).get("world", EASY.name)
    except Exception as error:
        raise AsyncDiffError(f"The judge {file} cannot be read ({error}); reinstall the package.") from error
    if name not in WORLDS:
        raise AsyncDiffError(f"{file} judges the world {name!r}; this version knows {', '.join(WORLDS)}.")
    return WORLDS[name]


def load_judge(folder: Path) -> JudgeNetwork:
    """The judge of the pipeline in ``folder``, of the world that it was trained on. Raises AsyncDiffError."""
    return JUDGES[world_of(folder).name].load(folder)
