"""What a metric is. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ..errors import AsyncDiffError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class RewardError(AsyncDiffError):
    """A metric cannot be loaded, or cannot judge what it was given."""


class Metric(Protocol):
    """A metric that is in memory: one number per picture and prompt."""

    def score(self, pictures: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """Raw scores (n,), float32 on the CPU, of n RGB ``pictures`` with a prompt each."""
        ...


def some(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
