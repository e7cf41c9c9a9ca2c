"""The judge of a pipeline folder, and the world that the pipeline was trained on."""

from __future__ import annotations

from pathlib import Path

from .detector import Detector
from .judge import Judge, JudgeNetwork
from .judge_file import world_name
from .worlds import WORLDS, World

JUDGES: dict[str, type[JudgeNetwork]] = {judge.world: judge for judge in (Judge, Detector)}


def world_of(folder: Path) -> World:
    """The world of the pipeline in ``folder``. Raises AsyncDiffError (see `world_name`)."""
    return WORLDS[world_name(folder)]


def load_judge(folder: Path) -> JudgeNetwork:
    """The judge of the pipeline in ``folder``. Raises AsyncDiffError."""
    return JUDGES[world_name(folder)].load(folder)
