"""Pictures that come from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import AsyncDiffError
from .files import check_file

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 2**30


@contextmanager
def opened(path: str | Path, error: type[AsyncDiffError]) -> Iterator[Image]:
    """The picture in a file, whatever it takes to read its pixels inside this context.

    Raises `error` with a sentence: no ordinary file, no picture, damaged, or so large that it could fill the memory.
    """
    from PIL import Image

    check_file(path, error, MOST_BYTES)
    try:
        with Image.open(path) as image:
            yield image
    except AsyncDiffError:
        raise
    except Image.DecompressionBombError as cause:
        raise error(f"{path} is too large to be opened safely ({cause}); scale it down first.") from cause
    except Exception as cause:  # Pillow's readers raise many kinds for damaged files
        reason = str(cause).split("\n")[0][:160] or type(cause).__name__
        raise error(f"{path} cannot be read as an image ({reason}); remove it or save it again as PNG.") from cause
