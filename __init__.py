"""AsyncDiff: asynchronous timestep conditioning for flow-matching image models.

ComfyUI loads this folder as a node pack; pip installs it as the package ``asyncdiff``. Either way the import is light:
no torch, no host. The library is ``asyncdiff.tpm``, the command ``asyncdiff``.
"""

__version__ = "0.1.0"

WEB_DIRECTORY = "./web"
"""Where ComfyUI looks for the pack's front end."""

__all__ = ["WEB_DIRECTORY", "__version__", "comfy_entrypoint"]


async def comfy_entrypoint() -> object:
    """What ComfyUI calls for the nodes; only here is the host imported."""
    from .nodes.extension import AsyncDiffExtension

    return AsyncDiffExtension()
