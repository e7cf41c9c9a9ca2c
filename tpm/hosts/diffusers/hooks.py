"""What is attached to a pipeline while a context is open: one list of it, and one way to take it off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

MISSING = object()


class Attachments:
    """Hooks and replaced attributes, which `detach` takes off in the reverse order. May be used again after that."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def add(self, *handles: Any) -> None:
        """Keep the handles of hooks (`remove` takes one off)."""
        self._undo += [handle.remove for handle in handles]

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of this object alone; what was there before comes back."""
        before = vars(owner).get(name, MISSING)
        setattr(owner, name, value)
        self._undo.append(lambda: delattr(owner, name) if before is MISSING else setattr(owner, name, before))

    def detach(self) -> None:
        """Take everything off, the last first."""
        while self._undo:
            self._undo.pop()()


def is_hooked_by(module: nn.Module, kind: type) -> bool:
    """Whether an object of this class has a forward pre-hook on the module."""
    return any(isinstance(getattr(hook, "__self__", None), kind) for hook in module._forward_pre_hooks.values())
