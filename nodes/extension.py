"""What ComfyUI asks the pack for: its nodes. The registry of the ComfyUI side, above all of it."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import nodes_embedded
from .links import guarded
from .pixelwise import nodes_regions
from .pixelwise import nodes_sampling as nodes_pixelwise
from .retiming import live_plan, nodes_pictures, nodes_plots, nodes_policies, nodes_sampling, nodes_sweep, sharing
from .rewards import nodes_scoring, nodes_selection
from .training import nodes_calibrate, nodes_search, nodes_training

_ROOMS = (
    *nodes_policies.NODES,
    *nodes_pictures.NODES,
    *nodes_sampling.NODES,
    *nodes_sweep.NODES,
    *nodes_plots.NODES,
    *nodes_scoring.NODES,
    *nodes_selection.NODES,
    *nodes_training.NODES,
    *nodes_search.NODES,
    *nodes_calibrate.NODES,
    *nodes_embedded.NODES,
    *nodes_regions.NODES,
    *nodes_pixelwise.NODES,
)
NODES: list[type[io.ComfyNode]] = [guarded(node) for node in _ROOMS]


class AsyncDiffExtension(ComfyExtension):
    """What ComfyUI asks the pack for."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES

    async def on_load(self) -> None:
        """Called once when the pack is loaded."""
        live_plan.add_route()
        sharing.listen()
