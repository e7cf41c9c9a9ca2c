"""Nodes that sample asynchronously."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

import nodes as core

from ...tpm.policies import Policy
from .. import sockets
from ..schema import schema
from .live import LiveView
from .patch import attach


def ksampler_inputs() -> list[Any]:
    """KSampler's widgets and sockets in KSampler's order and with its limits."""
    return [
        io.Model.Input("model", tooltip="The model to sample with: SD3, SD3.5, Flux or another flow-matching model."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="The random seed of the noise, as in KSampler.",
        ),
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Number of denoising steps."),
        io.Float.Input(
            "cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Classifier-free guidance scale."
        ),
        io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The sampling algorithm."),
        io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="How σ falls over the steps."),
        io.Conditioning.Input("positive", tooltip="What the image should show."),
        io.Conditioning.Input("negative", tooltip="What it should not show."),
        io.Latent.Input("latent_image", tooltip="The latent to denoise."),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Less than 1 keeps the structure of the latent, for image to image.",
        ),
    ]


class AsynchronousKSampler(io.ComfyNode):
    """KSampler with the timestep decided by a policy."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffKSampler",
            display_name="Asynchronous KSampler",
            description="KSampler that tells the model another timestep than the one the latent is at, as the policy"
            " decides. The σ grid, the sampler and the previews stay as they are; γ = 0 is KSampler to the bit.",
            search_aliases=["asyncdiff", "asynchronous", "sampler", "detail", "TPM", "gamma", "retiming"],
            inputs=[
                *ksampler_inputs(),
                sockets.policy_input(),
                sockets.gamma_input(),
                *sockets.retiming_inputs(),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The denoised latent."),
                sockets.Trace.Output("trace", tooltip="What was decided step by step; see Deviation Plot."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, seed: int, steps: int, cfg: float, sampler_name: str, scheduler: str, positive: Any,
        negative: Any, latent_image: dict[str, Any], denoise: float, policy: Policy, gamma: float, bound: str,
        tail_sync: int, velocity_coupling: float,
    ) -> io.NodeOutput:  # fmt: skip
        view = LiveView(cls.hidden.unique_id)
        retiming = sockets.retiming_from(gamma, bound, tail_sync, velocity_coupling)
        patched = attach(model, policy, retiming, view)
        (latent,) = core.common_ksampler(
            patched, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
        )
        return io.NodeOutput(latent, view.trace)


class ApplyAsynchronousTimesteps(io.ComfyNode):
    """The MODEL patch for every other sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffApply",
            display_name="Apply Asynchronous Timesteps",
            description="Patches MODEL so that any sampler runs asynchronously: SamplerCustomAdvanced with any guider,"
            " KSampler (Advanced), detailers and upscalers.",
            search_aliases=["asyncdiff", "asynchronous", "patch", "model", "detail", "detail daemon", "lying sigma"],
            inputs=[
                io.Model.Input("model", tooltip="A flow-matching model: SD3, SD3.5, Flux, …"),
                sockets.policy_input(),
                sockets.gamma_input(),
                *sockets.retiming_inputs(),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="Connect it to a sampler or guider.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, policy: Policy, gamma: float, bound: str, tail_sync: int, velocity_coupling: float
    ) -> io.NodeOutput:
        retiming = sockets.retiming_from(gamma, bound, tail_sync, velocity_coupling)
        return io.NodeOutput(attach(model, policy, retiming, LiveView(cls.hidden.unique_id)))


NODES = [AsynchronousKSampler, ApplyAsynchronousTimesteps]
