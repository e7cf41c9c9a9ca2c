"""Nodes that sample with regions, and the schedule they follow."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ...tpm.pixelwise.requests import Regions
from ...tpm.policies import Policy
from .. import sockets
from ..images import to_image
from ..retiming.automatic import fitting
from ..schema import schema
from .patch import attach
from .pictures import schedule_chart
from .sampler import PixelwiseSampler


class ApplyPixelwise(io.ComfyNode):
    """The MODEL patch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffApplyPixelwise",
            display_name="Apply Pixel-wise Asynchronous Denoising",
            description="Patches MODEL so that Pixel-wise Asynchronous Sampler can give every pixel its own timestep:"
            " SD1.5, SD2.1, SDXL, SD3, SD3.5, Flux.1, Flux.2; videos of LTX-Video, LTX-2, Wan 2.1, Wan 2.2 and SCAIL."
            " Weights and LoRA stay as they are.",
            search_aliases=["asyncdiff", "asyndm", "pixel-wise", "patch", "model", "regions", "prompt adherence"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="SD1.5, SD2.1, SDXL, SD3, SD3.5, Flux.1, Flux.2; LTX or Wan for videos."
                ),
                sockets.regions_input("What is denoised more slowly: Regions from Prompt or Region from Mask."),
                io.Combo.Input(
                    "text_timestep",
                    options=["mean", "max", "min", "background"],
                    default="mean",
                    tooltip="The one timestep that the text tokens of SD3 and Flux are told: a statistic of the pixels'"
                    " timesteps, or the background's. The text of a UNet or of a video model has none to choose.",
                ),
                io.Combo.Input(
                    "reading",
                    options=["corner", "mean"],
                    default="corner",
                    tooltip="How the coarser layers of a UNet read the map: the top-left pixel of a cell (the paper)"
                    " or the cell's mean. Transformers have whole patches either way.",
                ),
                sockets.Policy.Input(
                    "policy",
                    optional=True,
                    tooltip="Both asynchronies: this policy's deviation, in steps of each pixel's own schedule, on top"
                    " of the regions. For SD3, SD3.5, Flux and the videos.",
                ),
                sockets.gamma_input(),
            ],
            outputs=[
                io.Model.Output(
                    "model_out", display_name="model", tooltip="For SamplerCustom or a guider of SamplerCustomAdvanced."
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, regions: Regions, text_timestep: Any, reading: Any, gamma: float, policy: Policy | None = None
    ) -> io.NodeOutput:
        """Patch a clone."""
        retiming = sockets.retiming_from(gamma, "from policy", 0, 0.0)
        chosen = None if policy is None else fitting(policy, model)[0]
        return io.NodeOutput(attach(model, regions, text_timestep, reading, chosen, retiming))


class PixelwiseSamplerNode(io.ComfyNode):
    """The SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffPixelwiseSampler",
            display_name="Pixel-wise Asynchronous Sampler",
            description="A SAMPLER for SamplerCustom and SamplerCustomAdvanced: Euler, with every pixel on its own way"
            " from noise to image. The background follows the scheduler's noise levels.",
            search_aliases=["asyncdiff", "asyndm", "pixel-wise", "sampler", "euler", "concave", "regions"],
            inputs=[
                *sockets.schedule_inputs(),
                io.Float.Input(
                    "eta",
                    display_name="fresh noise (η)",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Fresh noise of each step: 0 is Euler, 1 ancestral Euler (the paper's, for SD); SD3, Flux"
                    " and videos take 0 only.",
                ),
            ],
            outputs=[
                io.Sampler.Output("sampler", tooltip="Needs a model from Apply Pixel-wise Asynchronous Denoising.")
            ],
        )

    @classmethod
    def execute(cls, curve: Any, concave: bool, scale: float, eta: float) -> io.NodeOutput:
        """Nothing runs yet."""
        return io.NodeOutput(PixelwiseSampler(curve, concave, scale, eta))


class PixelwiseSchedulePlot(io.ComfyNode):
    """The σ of background and regions over the steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffPixelwiseSchedulePlot",
            display_name="Preview Pixel-wise Schedule",
            description="A chart of where background and regions are at every step, before anything is sampled.",
            search_aliases=["asyncdiff", "asyndm", "pixel-wise", "plot", "chart", "schedule", "sigmas", "concave"],
            inputs=[
                io.Sigmas.Input("sigmas", tooltip="The scheduler's noise levels, as the sampler gets them."),
                sockets.regions_input("Their names and strengths."),
                *sockets.schedule_inputs(),
            ],
            outputs=[
                io.Image.Output("chart", tooltip="The noise level per step: the background dashed, each region a line.")
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, sigmas: torch.Tensor, regions: Regions, curve: Any, concave: bool, scale: float) -> io.NodeOutput:
        """Draw the chart and show it on the node."""
        chart = to_image(schedule_chart(sigmas, regions, curve, concave, scale))
        return io.NodeOutput(chart, ui=ui.PreviewImage(chart, cls=cls))


NODES = [ApplyPixelwise, PixelwiseSamplerNode, PixelwiseSchedulePlot]
