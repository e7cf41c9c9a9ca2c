"""Where the time goes: nested, named stopwatches. A watch's time excludes what runs inside it under another name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by name, since it was made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = time.perf_counter()
        self._born = self._since

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time of this block under `name`."""
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def shares(self) -> dict[str, float]:
        """The part of the wall time of each name; what no name claimed is "other"."""
        total = time.perf_counter() - self._born
        named = {name: seconds / total for name, seconds in self.seconds.items()}
        return {**named, "other": max(0.0, 1 - sum(named.values()))}

    def _switch(self) -> None:
        """Book the time since the last switch to the innermost running name."""
        now = time.perf_counter()
        if self._running:
            name = self._running[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
