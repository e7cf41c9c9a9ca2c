"""What a network is called with, and a network made blind to its timestep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Call(NamedTuple):
    """One call of a network."""

    args: tuple[Any, ...]  # x, the timestep, …
    kwargs: dict[str, Any]

    @property
    def timestep(self) -> Any:
        return self.args[1]

    @property
    def options(self) -> dict[str, Any]:
        """The transformer_options of the call."""
        return next(part for part in (*self.args, *self.kwargs.values()) if _is_options(part))

    @property
    def sigma(self) -> float:
        return float(self.options["sigmas"][0])

    @property
    def rows(self) -> int:
        """Images times conditionings."""
        x = self.args[0]
        return len(x[0] if isinstance(x, list | tuple) else x)

    def at(self, other: Call) -> Call:
        """This call at the time of the other one: its timestep, and σ as the options tell it."""
        swap = [other.options if _is_options(part) else part for part in self.args]
        swap[1] = other.timestep
        return Call(tuple(swap), {n: other.options if _is_options(p) else p for n, p in self.kwargs.items()})

    def of(self, other: Call) -> Call:
        """This call with the latent of the other one."""
        return Call((other.args[0], *self.args[1:]), self.kwargs)


def _is_options(part: Any) -> bool:
    return isinstance(part, dict) and "sample_sigmas" in part


@contextlib.contextmanager
def calls_of(network: nn.Module, inner: bool = False) -> Iterator[list[Call]]:
    """The calls that the network gets meanwhile. inner: see `Entry.inner`."""
    name, calls = _entrance(inner), []
    original = getattr(network, name)

    def record(*args: Any, **kwargs: Any) -> Any:
        calls.append(Call(args, kwargs))
        return original(*args, **kwargs)

    setattr(network, name, record)
    try:
        yield calls
    finally:
        delattr(network, name)


@contextlib.contextmanager
def blinded(network: nn.Module, first: Call, second: Call, inner: bool = False) -> Iterator[None]:
    """Meanwhile, every weight is zero that reads what depends on the timestep and on nothing of the latent.

    These are the layers of the timestep's embedding, and those that only it reaches. Their output is then a constant;
    all else works as before, and so does whatever the family computes from the timestep beside its weights.
    first, second: two calls of a run.
    """
    readers = readers_of_time(network, first, second, inner)
    assert readers, "no layer reads the timestep alone"
    weights = [module.weight.data.clone() for module in readers]
    for module in readers:
        module.weight.data.zero_()
    try:
        reached = _moved_by(network, first, first.at(second), inner) - set(readers)
        assert not reached, f"the timestep still reaches {len(reached)} layers"
        yield
    finally:
        for module, weight in zip(readers, weights, strict=True):
            module.weight.data.copy_(weight)


def readers_of_time(network: nn.Module, first: Call, second: Call, inner: bool) -> list[nn.Module]:
    """The layers whose input depends on the timestep and not on the latent."""
    timed = _moved_by(network, first, first.at(second), inner)
    pictured = _moved_by(network, first, first.of(second), inner)
    return [module for module in _layers(network) if module in timed - pictured]


# --- inside -------------------------------------------------------------------------------------------------------


def _entrance(inner: bool) -> str:
    return "_forward" if inner else "forward"


def _layers(network: nn.Module) -> list[nn.Module]:
    """Modules with a weight of their own."""
    return [m for m in network.modules() if isinstance(getattr(m, "weight", None), nn.Parameter)]


def _moved_by(network: nn.Module, one: Call, other: Call, inner: bool) -> set[nn.Module]:
    """The layers whose input is another one in the other call."""
    a, b = _inputs(network, one, inner), _inputs(network, other, inner)
    return {module for module in a.keys() | b.keys() if not _equal(a.get(module, []), b.get(module, []))}


def _inputs(network: nn.Module, call: Call, inner: bool) -> dict[nn.Module, list[Tensor]]:
    """What every layer reads in this call."""
    seen: dict[nn.Module, list[Tensor]] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read = [part.clone() for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
        seen.setdefault(module, []).extend(read)

    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in _layers(network)]
    try:
        with torch.inference_mode():
            run: Callable[..., Any] = getattr(network, _entrance(inner))
            run(*_copied(call.args), **_copied(call.kwargs))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _copied(part: Any) -> Any:
    """Containers anew, so that a network that edits its options does not change the call."""
    if isinstance(part, dict):
        return {name: _copied(value) for name, value in part.items()}
    if isinstance(part, list | tuple) and type(part) in (list, tuple):
        return type(part)(_copied(value) for value in part)
    return part.clone() if isinstance(part, Tensor) else part


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))
