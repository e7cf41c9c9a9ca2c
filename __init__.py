"""AsyncDiff: asynchronous timestep conditioning for flow-matching image models.

ComfyUI loads this folder as a node pack; pip installs it as the package ``asyncdiff``. Either way the import is light:
no torch, no host. What is public is imported when it is first asked for (PEP 562)::

    from asyncdiff import Constant, asynchronous

    with asynchronous(pipe, Constant(0.2)):
        image = pipe("a lighthouse at dusk").images[0]

``docs/python.md`` has examples. The library itself is ``asyncdiff.tpm``, the command ``asyncdiff``.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tpm.hosts.diffusers.pixelwise import Pixelwise, pixelwise
    from .tpm.hosts.diffusers.retiming import asynchronous
    from .tpm.hosts.diffusers.studio import DiffusersStudio
    from .tpm.policies import Constant, Curve, Learned, Recorded, find_policy, save_policy
    from .tpm.retiming.contract import Policy, StepState
    from .tpm.retiming.settings import Retiming
    from .tpm.retiming.trace import Trace

__version__ = "0.2.0"

WEB_DIRECTORY = "./web"
"""Where ComfyUI looks for the pack's front end."""

EMBEDDED = Path(__file__).parent / "weights" / "tiny-sd35"
"""The folder of the embedded pipeline, a small SD3.5 that runs on any CPU."""

_PLACES = {
    "Constant": ".tpm.policies",
    "Curve": ".tpm.policies",
    "DiffusersStudio": ".tpm.hosts.diffusers.studio",
    "Learned": ".tpm.policies",
    "Pixelwise": ".tpm.hosts.diffusers.pixelwise",
    "Policy": ".tpm.retiming.contract",
    "Recorded": ".tpm.policies",
    "Retiming": ".tpm.retiming.settings",
    "StepState": ".tpm.retiming.contract",
    "Trace": ".tpm.retiming.trace",
    "asynchronous": ".tpm.hosts.diffusers.retiming",
    "find_policy": ".tpm.policies",
    "pixelwise": ".tpm.hosts.diffusers.pixelwise",
    "save_policy": ".tpm.policies",
}

__all__ = [
    "EMBEDDED",
    "WEB_DIRECTORY",
    "Constant",
    "Curve",
    "DiffusersStudio",
    "Learned",
    "Pixelwise",
    "Policy",
    "Recorded",
    "Retiming",
    "StepState",
    "Trace",
    "__version__",
    "asynchronous",
    "comfy_entrypoint",
    "find_policy",
    "pixelwise",
    "save_policy",
]


def __getattr__(name: str) -> Any:
    """A public name, imported now and kept. Raises AttributeError for others."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All names, those that have not been imported yet as well."""
    return sorted({*globals(), *_PLACES})


async def comfy_entrypoint() -> object:
    """What ComfyUI calls for the nodes; only here is the host imported."""
    from .nodes.extension import AsyncDiffExtension

    return AsyncDiffExtension()
