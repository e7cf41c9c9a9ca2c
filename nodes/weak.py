"""Functions that a patched model holds, and that do not hold the model: one that is replaced is then freed at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakMethod, ref

from torch import nn


def weakly(held: Any) -> Callable[[], Any]:
    """A function that gives `held`; a module, or a function of a module, is not kept alive by it."""
    if isinstance(held, nn.Module):
        return ref(held)
    if isinstance(getattr(held, "__self__", None), nn.Module):
        return WeakMethod(held)
    return lambda: held


def released(stand_in: partial[Any]) -> Callable[..., Any]:
    """What `stand_in` does, without keeping alive the modules, and their functions, that it was made with."""
    function, options, made_with = stand_in.func, stand_in.keywords, [weakly(part) for part in stand_in.args]

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*(part() for part in made_with), *args, **options, **kwargs)

    return call
