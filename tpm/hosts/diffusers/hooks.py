"""What a run attaches to objects that belong to somebody else, and the one way to take it off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

ABSENT = object()
CALL = "_compiled_call_impl"  # what torch's Module.__call__ runs where it is set; `Module.compile` sets it too


class Hooks:
    """Attributes of instances that were replaced. `undo` puts back each one that is still ours."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, Any]] = []  # owner, name, ours, what the instance had before

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of this instance; classes and other instances are left alone.

        The instance's dictionary is written to directly: a module in torch.compile's wrapper hands attributes on.
        """
        self._replaced.append((owner, name, value, vars(owner).get(name, ABSENT)))
        vars(owner)[name] = value

    def holds(self, owner: Any, name: str) -> bool:
        """Whether an attribute that was replaced here is still ours."""
        return any(
            place is owner and key == name and vars(owner).get(name) is ours for place, key, ours, _ in self._replaced
        )

    def undo(self) -> None:
        """Put everything back, the latest first. What somebody else replaced in the meantime stays theirs."""
        while self._replaced:
            owner, name, ours, before = self._replaced.pop()
            if vars(owner).get(name) is not ours:
                continue
            if before is ABSENT:
                del vars(owner)[name]
            else:
                vars(owner)[name] = before


def stock_call(module: nn.Module) -> Callable[..., Any]:
    """What `module(…)` runs now: the compiled call of a module that was compiled in place, else torch's own."""
    compiled: Callable[..., Any] | None = vars(module).get(CALL)
    return compiled or module._call_impl
