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
from .record import RunRecord, record_of


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
        io.Combo.Input(
            "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="How the noise level falls over the steps."
        ),
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


def ksampler_advanced_inputs() -> list[Any]:
    """KSampler (Advanced)'s widgets and sockets in its order and with its limits."""
    by_name = {entry.id: entry for entry in ksampler_inputs()}
    return [
        by_name["model"],
        io.Combo.Input(
            "add_noise",
            options=["enable", "disable"],
            tooltip="Whether noise is added first. Disable it in every part but the first.",
        ),
        io.Int.Input(
            "noise_seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="The random seed of the noise.",
        ),
        *(by_name[name] for name in ("steps", "cfg", "sampler_name", "scheduler", "positive", "negative")),
        by_name["latent_image"],
        io.Int.Input("start_at_step", default=0, min=0, max=10000, tooltip="The first step of this part."),
        io.Int.Input(
            "end_at_step", default=10000, min=0, max=10000, tooltip="The step that this part ends before, or the last."
        ),
        io.Combo.Input(
            "return_with_leftover_noise",
            options=["disable", "enable"],
            tooltip="Enable it in every part but the last, so that the next part goes on where this one ended.",
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
            " decides. The noise levels, the sampler and the previews stay as they are; strength (γ) 0 is KSampler to"
            " the bit.",
            search_aliases=[
                *("asyncdiff", "asynchronous", "sampler", "TPM", "gamma", "retiming"),
                *("detail", "more detail", "add detail", "prompt adherence"),
            ],
            inputs=[
                *ksampler_inputs(),
                sockets.policy_input(optional=True),
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
        negative: Any, latent_image: dict[str, Any], denoise: float, gamma: float, bound: str, tail_sync: int,
        velocity_coupling: float, policy: Policy | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        view = LiveView(cls.hidden.unique_id)
        retiming = sockets.retiming_from(gamma, bound, tail_sync, velocity_coupling)
        patched = attach(model, policy, retiming, view)
        (latent,) = core.common_ksampler(
            patched, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
        )
        return io.NodeOutput(latent, view.trace)


class AsynchronousKSamplerAdvanced(io.ComfyNode):
    """KSampler (Advanced) with the timestep decided by a policy: one part of a run, or all of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffKSamplerAdvanced",
            display_name="Asynchronous KSampler (Advanced)",
            description="KSampler (Advanced) that tells the model another timestep than the one the latent is at. A"
            " run in several parts gives what one run gives: each part knows the steps of the whole. For two experts"
            " (Wan 2.2), refiners and leftover noise.",
            search_aliases=[
                *("asyncdiff", "asynchronous", "sampler", "advanced", "wan 2.2", "two experts", "split"),
                *("more detail", "add detail"),
            ],
            inputs=[
                *ksampler_advanced_inputs(),
                sockets.policy_input(optional=True),
                sockets.gamma_input(),
                *sockets.retiming_inputs(),
                *sockets.part_inputs(),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The latent at the end of this part."),
                sockets.Trace.Output(
                    "trace", tooltip='What was decided step by step; connect it to "before" of the next part.'
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, add_noise: str, noise_seed: int, steps: int, cfg: float, sampler_name: str, scheduler: str,
        positive: Any, negative: Any, latent_image: dict[str, Any], start_at_step: int, end_at_step: int,
        return_with_leftover_noise: str, gamma: float, bound: str, tail_sync: int, velocity_coupling: float,
        policy: Policy | None = None, before: Any = None, stay_in_part: bool = False,
    ) -> io.NodeOutput:  # fmt: skip
        record = RunRecord(cls.hidden.unique_id)
        retiming = sockets.retiming_from(gamma, bound, tail_sync, velocity_coupling, stay_in_part)
        whole = comfy.samplers.KSampler(
            model, steps, model.load_device, sampler_name, scheduler, 1.0, model.model_options
        ).sigmas
        patched = attach(model, policy, retiming, record, whole=whole, before=record_of(before))
        (latent,) = core.common_ksampler(
            patched, noise_seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image,
            disable_noise=add_noise == "disable", start_step=start_at_step, last_step=end_at_step,
            force_full_denoise=return_with_leftover_noise == "disable",
        )  # fmt: skip
        return io.NodeOutput(latent, record if record.trace else None)


class ApplyAsynchronousTimesteps(io.ComfyNode):
    """The MODEL patch for every other sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffApply",
            display_name="Apply Asynchronous Timesteps",
            description="Patches MODEL so that any sampler runs asynchronously: SamplerCustomAdvanced with any guider,"
            " KSampler (Advanced), detailers and upscalers.",
            search_aliases=[
                *("asyncdiff", "asynchronous", "patch", "model", "detail", "detail daemon", "lying sigma"),
                *("more detail", "add detail", "prompt adherence"),
            ],
            inputs=[
                io.Model.Input("model", tooltip="A flow-matching model: SD3, SD3.5, Flux, …"),
                sockets.policy_input(optional=True),
                sockets.gamma_input(),
                *sockets.retiming_inputs(),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="For a run in several parts: the SIGMAS of the whole run, before they are split. Without"
                    " it, every run of the model counts as a whole one.",
                ),
                *sockets.part_inputs(),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="Connect it to a sampler or guider."),
                sockets.Trace.Output(
                    "trace",
                    tooltip="What the latest run of this model decided, for Deviation Plot and Policy from Trace."
                    ' Connect the latent of the sampler to their input "after", so that they wait for it.',
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, gamma: float, bound: str, tail_sync: int, velocity_coupling: float,
        policy: Policy | None = None, sigmas: Any = None, before: Any = None, stay_in_part: bool = False,
    ) -> io.NodeOutput:  # fmt: skip
        record = RunRecord(cls.hidden.unique_id)
        retiming = sockets.retiming_from(gamma, bound, tail_sync, velocity_coupling, stay_in_part)
        patched = attach(model, policy, retiming, record, whole=sigmas, before=record_of(before))
        return io.NodeOutput(patched, record)


NODES = [AsynchronousKSampler, ApplyAsynchronousTimesteps, AsynchronousKSamplerAdvanced]
