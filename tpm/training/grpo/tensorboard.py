"""A run's records for TensorBoard, where it is installed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
MISSING = "TensorBoard is not installed, so there are no logs for it: pip install tensorboard"
NAMED = {"metrics": "score", "probe": "probe", "time": "time share"}


class TensorBoardLog:
    """Writes records as scalars into `folder`. Without TensorBoard it says so once and does nothing."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """purge_step: forget what is there from this iteration on, as after a resume."""
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.warning(MISSING)
            return
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def add(self, record: Mapping[str, Any]) -> None:
        """One iteration's record."""
        if self._writer is None:
            return
        for name, value in scalars(record):
            self._writer.add_scalar(name, value, record["iteration"])

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number of a record by a name like "score/alignment" or "D/step 3"."""
    for key, value in record.items():
        if key != "iteration":
            yield from _scalars(key, value)


def _scalars(key: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from ((f"{NAMED.get(key, key)}/{path}", number) for path, number in _scalars(name, inner))
    elif isinstance(value, list):
        yield from ((f"{key}/step {k + 1}", float(number)) for k, number in enumerate(value))
    elif isinstance(value, int | float):
        yield key, float(value)
