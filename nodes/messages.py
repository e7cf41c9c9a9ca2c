"""Messages name a file as its user does: models/tpm/mine.json, without the folders that ComfyUI and the pack lie in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import folder_paths

from ..tpm.errors import AsyncDiffError
from ..tpm.files import WEIGHTS

OWN = (Path(__file__).parents[1], WEIGHTS.parent)
"""The folder of the pack, as it was found and where it really lies."""


def message(error: AsyncDiffError) -> str:
    """What an error says, with short names of files."""
    text = str(error)
    homes = {str(place) for place in (*OWN, folder_paths.base_path, Path(folder_paths.models_dir).parent)}
    for home in sorted(homes, key=len, reverse=True):  # the pack lies inside of ComfyUI
        text = text.replace(home + os.sep, "") if len(home) > 1 else text
    return text


@contextmanager
def short_messages() -> Iterator[None]:
    """Errors that leave this block say what `message` says."""
    try:
        yield
    except AsyncDiffError as error:
        error.args = (message(error),)
        raise
