"""The ComfyUI side: thin V3 nodes over the library. The only folder that imports comfy."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    embedded,
    pixelwise_regions,
    pixelwise_sampling,
    plots,
    policies,
    preview,
    rewards,
    sampling,
    searching,
    selection,
    training,
)

NODES: list[type[io.ComfyNode]] = [
    *policies.NODES,
    *sampling.NODES,
    *plots.NODES,
    *rewards.NODES,
    *selection.NODES,
    *training.NODES,
    *searching.NODES,
    *embedded.NODES,
    *pixelwise_regions.NODES,
    *pixelwise_sampling.NODES,
]


class AsyncDiffExtension(ComfyExtension):
    """What ComfyUI asks the pack for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES

    async def on_load(self) -> None:
        """Called once when the pack is loaded."""
        preview.add_route()
