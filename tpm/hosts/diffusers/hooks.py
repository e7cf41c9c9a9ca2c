"""What is attached to a pipeline while a context is open: one list of it, and one way to take it off again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

from torch import nn

from ...errors import HostError

MISSING = object()
CALL = "_compiled_call_impl"  # what torch's Module.__call__ runs where it is set; `Module.compile` sets it too


class Attachments:
    """Hooks and replaced attributes, which `detach` takes off in the reverse order. May be used again after that."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._replaced: list[tuple[Any, str, Any]] = []

    def add(self, *handles: Any) -> None:
        """Keep the handles of hooks (`remove` takes one off)."""
        self._undo += [handle.remove for handle in handles]

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of this object alone; what was there before comes back, unless somebody set it meanwhile.

        The object's dictionary is written to directly: a module in torch.compile's wrapper hands attributes on.
        """
        before = vars(owner).get(name, MISSING)
        vars(owner)[name] = value
        self._replaced.append((owner, name, value))
        self._undo.append(lambda: _put_back(owner, name, value, before))

    def holds(self, owner: Any, name: str) -> bool:
        """Whether an attribute that was replaced here is still what it was replaced by."""
        ours = (value for place, key, value in self._replaced if place is owner and key == name)
        return any(vars(owner).get(name) is value for value in ours)

    def detach(self) -> None:
        """Take everything off, the last first."""
        while self._undo:
            self._undo.pop()()
        self._replaced.clear()


def _put_back(owner: Any, name: str, ours: Any, before: Any) -> None:
    if vars(owner).get(name) is not ours:
        return
    if before is MISSING:
        del vars(owner)[name]
    else:
        vars(owner)[name] = before


def stock_call(module: nn.Module) -> Callable[..., Any]:
    """What `module(…)` runs now: the compiled call of a module that was compiled in place, else torch's own."""
    compiled: Callable[..., Any] | None = vars(module).get(CALL)
    return compiled or module._call_impl


def in_place_of(stock: Callable[..., Any], watcher: Callable[..., Any]) -> Callable[..., Any]:
    """`watcher`, called first with `stock`, with the signature of it.

    Pipelines look in a step's signature for η and the generator.
    """
    replacement: Any = partial(watcher, stock)
    replacement.__signature__ = signature(stock)
    watched: Callable[..., Any] = replacement
    return watched


def is_compiled(module: nn.Module) -> bool:
    """Whether `module(…)` runs a compiled graph: it is torch.compile's wrapper, or was compiled in place."""
    return hasattr(module, "_orig_mod") or vars(module).get(CALL) is not None


def check_uncompiled(module: nn.Module) -> None:
    """Raise HostError where `module.compile()` was called: hooks inside of a compiled module would break its graph."""
    call = vars(module).get(CALL)
    if call is not None and not isinstance(call, partial):  # a partial is what `asynchronous` puts there
        raise HostError(
            f"This {type(module).__name__} was compiled in place; pixel-wise denoising looks into its layers, so load"
            " the pipeline again and leave compile() out."
        )


def is_hooked_by(module: nn.Module, kind: type) -> bool:
    """Whether an object of this class has a forward pre-hook on the module."""
    return any(isinstance(getattr(hook, "__self__", None), kind) for hook in module._forward_pre_hooks.values())
