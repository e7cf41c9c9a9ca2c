"""A stand-in for a device: it counts, by call site, what would make the host wait for one. It needs no GPU.

Latents, noise and σ of a sampler become `OnDevice` tensors, and so does whatever is computed from them. A read of one
of them by this pack counts; the host's own reads do not.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from support.paths import ROOT

READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default)
COPIES = (torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.numpy)
OURS = (ROOT / "nodes", ROOT / "tpm")
TORCH = Path(torch.__file__).parent


class OnDevice(torch.Tensor):
    """A tensor of the stand-in device. What is copied to the host is an ordinary tensor again."""

    counter = None

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to_host = func in COPIES or (func is torch.Tensor.to and "cpu" in (*args, *kwargs.values()))
        if func is torch.Tensor.copy_ and not isinstance(args[0], cls) and not kwargs.get("non_blocking"):
            to_host = True
        if not to_host:
            return super().__torch_function__(func, types, args, kwargs)
        if cls.counter is not None:
            cls.counter[call_site()] += 1
        with torch._C.DisableTorchFunctionSubclass():
            return func(*(a.as_subclass(torch.Tensor) if isinstance(a, cls) else a for a in args), **kwargs)


class Reads(TorchDispatchMode):
    """Counts scalars that are read from tensors of the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READS and any(isinstance(arg, OnDevice) for arg in args) and OnDevice.counter is not None:
            OnDevice.counter[call_site()] += 1
        return func(*args, **(kwargs or {}))


def call_site():
    """Where the innermost code outside of torch and this file is: "nodes/retiming/run.py:12", or the host's file."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path != Path(__file__) and TORCH not in path.parents and path.exists():
            break
        frame = frame.f_back
    ours = any(place in path.parents for place in OURS)
    return f"{path.relative_to(ROOT) if ours else path.name}:{frame.f_code.co_name}"


def is_ours(site):
    return site.startswith(("nodes/", "tpm/"))


@contextmanager
def counted():
    """The waits inside of this context, a Counter by call site."""
    OnDevice.counter = Counter()
    try:
        with Reads():
            yield OnDevice.counter
    finally:
        OnDevice.counter = None


def on_device(model):
    """A clone of MODEL that samples on the stand-in device. Patch it before, so that this hook is the outermost."""
    from comfy.patcher_extension import WrappersMP

    def upload(executor, noise, latent, sampler, sigmas, *args, **kwargs):
        parts = (part.as_subclass(OnDevice) for part in (noise, latent))
        done = executor(*parts, sampler, sigmas.clone().as_subclass(OnDevice), *args, **kwargs)
        return done.as_subclass(torch.Tensor)

    clone = model.clone()
    inner = clone.wrappers.get(WrappersMP.OUTER_SAMPLE, {})
    clone.wrappers[WrappersMP.OUTER_SAMPLE] = {"device": [upload], **inner}
    return clone


def waits_added(run, model, steps=(4, 8), **options):
    """(per step, per run, sites): what this pack adds to runs of two lengths. `run(model, steps=…)` samples."""
    found = []
    for count in steps:
        with counted() as sites:
            run(on_device(model), steps=count, **options)
        found.append(Counter({site: number for site, number in sites.items() if is_ours(site)}))
    short, long = (sum(sites.values()) for sites in found)
    per_step = (long - short) / (steps[1] - steps[0])
    return per_step, short - per_step * steps[0], found[1]


def waits_for(tensor):
    """In place of `nodes.retiming.run.waits_for`."""
    return isinstance(tensor, OnDevice)
