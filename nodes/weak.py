"""Functions that a patched model holds, and that do not hold the model: one that is replaced is then freed at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from torch import nn


def weakly(held: Any) -> Callable[[], Any]:
    """A function that gives `held`; a module, or a function of a module, is not kept alive by it."""
    if isinstance(held, nn.Module):
        return ref(held)
    owner = getattr(held, "__self__", None)
    if isinstance(owner, nn.Module):
        bound_to, module = held.__func__.__get__, ref(owner)  # a WeakMethod does this, and more, at every call
        return lambda: bound_to(module())
    return lambda: held


def released(stand_in: partial[Any]) -> Callable[..., Any]:
    """What `stand_in` does, without keeping alive the modules, and their functions, that it was made with."""
    function, options, made_with = stand_in.func, stand_in.keywords, [weakly(part) for part in stand_in.args]

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*(part() for part in made_with), *args, **options, **kwargs)

    return call
