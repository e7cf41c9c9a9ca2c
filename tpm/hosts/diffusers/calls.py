"""One call of a denoiser, by the names of its arguments, and a timestep that no model rounds."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError


@dataclass(frozen=True)
class Call:
    """The arguments of one call, given by place or by name."""

    names: tuple[str, ...]  # the arguments' names, by place
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def get(self, name: str) -> Any:
        """An argument, or None where the call has none of this name."""
        if name in self.kwargs:
            return self.kwargs[name]
        place = self.names.index(name) if name in self.names else len(self.args)
        return self.args[place] if place < len(self.args) else None

    def timestep(self, name: str = "timestep") -> Tensor:
        """The argument that is the timestep, (n,). Raises HostError where there is none."""
        timestep = self.get(name)
        if not isinstance(timestep, Tensor):
            raise HostError("The denoiser was called without a timestep tensor; use a stock pipeline of diffusers.")
        return timestep.reshape(1) if timestep.ndim == 0 else timestep

    def told(self, timestep: Tensor, name: str = "timestep") -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with another timestep, at the place where it was."""
        if name in self.kwargs:
            return self.args, {**self.kwargs, name: timestep}
        place = self.names.index(name)
        return (*self.args[:place], timestep, *self.args[place + 1 :]), dict(self.kwargs)


class ExactTimestep(Tensor):
    """A timestep that keeps its precision where a model casts it.

    Flux of diffusers casts the timestep to the latent's dtype and only then multiplies it by 1000: bf16 rounds t* to
    multiples of .004 there, more than most deviations. The embedding itself computes in fp32, so nothing else is lost.
    Whatever is computed from it is an ordinary tensor. torch.compile traces it as well.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """Moves between devices; the dtype stays."""
        moved = super().to(*args, **kwargs)
        return self if moved.dtype != self.dtype else moved.as_subclass(ExactTimestep)


class ClaimedTimestep(ExactTimestep):
    """An exact timestep that says that it has the dtype to which a model casts it; see `claiming`."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        return result.as_subclass(cls) if func in CLAIMED else result

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """Moves between devices; the dtype stays."""
        plain = self.as_subclass(Tensor)
        return plain.to(plain.to(*args, **kwargs).device).as_subclass(type(self))


CLAIMED = (Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.cat, torch.full_like)
"""Whatever is made of a claimed timestep by these is one as well; all else is an ordinary tensor."""


@cache
def claiming(dtype: torch.dtype) -> type[ClaimedTimestep]:
    """The timesteps that keep their precision where a model casts them to `dtype`, and then say that they have it.

    Flux.2 gives its embedding the dtype of the timestep, Qwen-Image rounds the frequencies of the embedding to it.
    """
    return type("ClaimedTimestep", (ClaimedTimestep,), {"dtype": property(lambda _: dtype)})


def unrounded(timestep: Tensor, latent: Tensor) -> Tensor:
    """The timestep (n,) that a model which casts it really uses, as a number that survives the multiplication by 1000.

    fp64 where the device has it: its product with 1000 is, to the last bit of fp32, the stock model's own.
    """
    kind = latent.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else latent.dtype
    wide = torch.float32 if kind == "mps" else torch.float64
    return (timestep.to(dtype) * 1000).to(wide) / 1000


def denoiser_call(denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """The call of a denoiser, which may be inside torch.compile's wrapper."""
    kind: Any = type(getattr(denoiser, "_orig_mod", denoiser))
    names = tuple(inspect.signature(kind.forward).parameters)[1:] if args else ()
    return Call(names, args, kwargs)
