"""What arrives by a link is what its socket says, whatever the node at the other end calls its output.

The host compares the types that two sockets declare. A node of another pack may declare "*", and a loader may hand on
None for a part that a checkpoint does not have; both would end in an AttributeError somewhere inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..tpm.errors import HostError
from ..tpm.pixelwise.requests import Regions
from ..tpm.retiming.trace import Trace
from ..tpm.rewards.composite import Composite
from .messages import short_messages

Check = Callable[[Any], bool]


def has(*names: str) -> Check:
    """Whether a value has these attributes."""
    return lambda value: all(hasattr(value, name) for name in names)


def an(*kinds: type) -> Check:
    """Whether a value is an instance of one of these classes."""
    return lambda value: isinstance(value, kinds)


KINDS: Mapping[str, tuple[Check, str]] = {
    "ASYNCDIFF_POLICY": (has("ratio", "begin", "bound", "needs_state"), "a policy, as Load Policy gives it"),
    "ASYNCDIFF_TRACE": (
        lambda value: (
            isinstance(value, Trace | None) or hasattr(value, "carried")
        ),  # or one that a run is going to fill
        "a trace, as Asynchronous KSampler gives it",
    ),
    "ASYNCDIFF_REGIONS": (an(Regions), "regions, as Regions from Prompt gives them"),
    "ASYNCDIFF_SCORES": (an(Composite), "scores, as Composite Reward Scorer gives them"),
    "ASYNCDIFF_REWARD_MODEL": (has("key", "metric", "patcher"), "a reward model, as Load Reward Model gives it"),
    "MODEL": (has("clone", "model", "get_model_object"), "a MODEL"),
    "CLIP": (has("tokenize", "encode_from_tokens_scheduled"), "a CLIP; perhaps the checkpoint holds no text encoder"),
    "VAE": (has("decode"), "a VAE; perhaps the checkpoint holds none"),
    "CONDITIONING": (an(list, tuple), "a CONDITIONING"),
    "LATENT": (lambda value: isinstance(value, Mapping) and "samples" in value, "a LATENT"),
    "IMAGE": (an(Tensor), "an IMAGE"),
    "MASK": (an(Tensor), "a MASK"),
    "SIGMAS": (an(Tensor), "SIGMAS"),
}
"""By the type of a socket: what a value must be, and what to call it."""


def guarded(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, which checks what its links bring before it runs, and whose errors name files by short names.

    Raises HostError for a link that brings something else.
    """
    entries = node.GET_SCHEMA().inputs
    kinds = {entry.id: entry.get_io_type() for entry in entries}
    optional = {entry.id for entry in entries if entry.optional}
    original = node.__dict__["execute"].__func__

    @wraps(original)
    def execute(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> Any:
        for name, value in inputs.items():
            if value is not None or name not in optional:
                _check(name, kinds.get(name), value)
        with short_messages():
            return original(cls, *args, **inputs)

    node.execute = classmethod(execute)
    return node


def _check(name: str, kind: str | None, value: Any) -> None:
    fits, called = KINDS.get(kind or "", (None, ""))
    if fits is not None and not fits(value):
        raise HostError(f"The input {name!r} got {_described(value)} where it needs {called}; connect another output.")


def _described(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
