"""The progress bar of the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, name: str, *, shown: bool) -> Iterator[Callable[..., None] | None]:
    """A bar over all steps of all runs on stderr, or nothing."""
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="step", desc=name, file=sys.stderr, dynamic_ncols=True) as bar:
        yield lambda *_: bar.update(1) and None


@contextmanager
def counting_bar(
    name: str, unit: str, *, shown: bool
) -> Iterator[tuple[Callable[[int], object], Callable[[int], object]]]:
    """(begin, count): a bar that learns its total from `begin` and goes on by `count`, or nothing."""
    if not shown:
        yield (lambda _: None), (lambda _: None)
        return
    from tqdm import tqdm

    with tqdm(unit=unit, desc=name, file=sys.stderr, dynamic_ncols=True) as bar:
        yield bar.reset, bar.update
