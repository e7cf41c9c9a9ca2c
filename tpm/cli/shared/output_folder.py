"""The folder that a command writes into."""

from __future__ import annotations

from pathlib import Path

from ...errors import AsyncDiffError


def check_writable(path: Path) -> None:
    """Create the output folder and try to write in it, before an hour of sampling."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise AsyncDiffError(
            f"The output folder {path} cannot be written ({error.strerror}); choose another --out."
        ) from error
