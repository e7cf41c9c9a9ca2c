"""Nodes that sample asynchronously."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io
from PIL import Image

import nodes as core

from ...tpm.drawing import to_pil
from ...tpm.drawing.panel import Cell, Row, draw_panel
from ...tpm.errors import RetimingError
from ...tpm.policies import Policy
from ...tpm.retiming.trace import Trace
from .. import sockets
from ..images import page
from ..schema import refusal, schema
from .live import LiveView
from .patch import attach
from .record import RunRecord, record_of
from .shared import Made, Remembered, can_share

MOST_GAMMAS = 16
_LATEST = Remembered()  # the latest γ Sweep


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


class AsynchronousKSamplerAdvanced(io.ComfyNode):
    """KSampler (Advanced) with the timestep decided by a policy: one part of a run, or all of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffKSamplerAdvanced",
            display_name="Asynchronous KSampler (Advanced)",
            description="KSampler (Advanced) that tells the model another timestep than the one the latent is at. A run"
            " in several parts gives what one run gives: each part knows the steps of the whole. For two experts (Wan"
            " 2.2), refiners and leftover noise.",
            search_aliases=["asyncdiff", "asynchronous", "sampler", "advanced", "wan 2.2", "two experts", "split"],
            inputs=[
                *ksampler_advanced_inputs(),
                sockets.policy_input(),
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
        return_with_leftover_noise: str, policy: Policy, gamma: float, bound: str, tail_sync: int,
        velocity_coupling: float, before: Any = None, stay_in_part: bool = False,
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
            search_aliases=["asyncdiff", "asynchronous", "patch", "model", "detail", "detail daemon", "lying sigma"],
            inputs=[
                io.Model.Input("model", tooltip="A flow-matching model: SD3, SD3.5, Flux, …"),
                sockets.policy_input(),
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
        cls, model: Any, policy: Policy, gamma: float, bound: str, tail_sync: int, velocity_coupling: float,
        sigmas: Any = None, before: Any = None, stay_in_part: bool = False,
    ) -> io.NodeOutput:  # fmt: skip
        record = RunRecord(cls.hidden.unique_id)
        retiming = sockets.retiming_from(gamma, bound, tail_sync, velocity_coupling, stay_in_part)
        patched = attach(model, policy, retiming, record, whole=sigmas, before=record_of(before))
        return io.NodeOutput(patched, record)


class GammaSweep(io.ComfyNode):
    """One seed at several γ, side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffGammaSweep",
            display_name="γ Sweep",
            description="Samples the same seed at several γ and shows the images side by side, labelled.",
            search_aliases=["asyncdiff", "gamma", "sweep", "grid", "compare", "xy plot"],
            inputs=[
                *ksampler_inputs(),
                io.Vae.Input("vae", tooltip="Decodes the images of the grid."),
                sockets.policy_input(),
                io.String.Input(
                    "gammas", default="0, 0.5, 1, 2", tooltip="The values of γ, separated by commas, each −10 … 10."
                ),
                *sockets.retiming_inputs(),
                io.String.Input("title", default="", tooltip="A heading for the grid, such as the prompt."),
            ],
            outputs=[
                io.Image.Output("grid", tooltip="One labelled picture: a row per image of the batch, a column per γ."),
                io.Image.Output("images", tooltip="All images: the whole batch at the first γ, then at the next."),
                io.Latent.Output("latents", tooltip="The same as latents, in the same order."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, gammas: str | None = None) -> bool | str:
        """Refuse a list that cannot be read before anything is queued."""
        return refusal(parse_gammas, gammas)

    @classmethod
    def execute(
        cls, model: Any, seed: int, steps: int, cfg: float, sampler_name: str, scheduler: str, positive: Any,
        negative: Any, latent_image: dict[str, Any], denoise: float, vae: Any, policy: Policy, gammas: str, bound: str,
        tail_sync: int, velocity_coupling: float, title: str,
    ) -> io.NodeOutput:  # fmt: skip
        """Sample once for each γ. The runs share their first step; those of the latest sweep are not made again."""
        values = parse_gammas(gammas)
        settings = (seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise)
        _LATEST.under(model, str(model.patches_uuid), policy, bound, tail_sync, velocity_coupling, settings)
        first = _LATEST.first if can_share(model, (positive, negative)) else None
        latents, images, traces = [], [], []
        for gamma in values:
            view = LiveView(cls.hidden.unique_id, f"γ = {gamma:g}")
            made = _LATEST.recall(gamma)
            if made is None:
                retiming = sockets.retiming_from(gamma, bound, tail_sync, velocity_coupling)
                patched = attach(model, policy, retiming, view, first)
                (latent,) = core.common_ksampler(patched, *settings[:-1], denoise=denoise)
                made = Made(latent["samples"], view.trace)
                _LATEST.keep(gamma, made)
            elif made.trace:
                view.replay(made.trace)
            latents.append(made.latent)
            images.append(core.VAEDecode().decode(vae, {"samples": made.latent})[0])
            traces.append(made.trace)
        subtitle = f"seed {seed} · {steps} steps · cfg {cfg:g} · {sampler_name} · {scheduler} · policy {policy.name}"
        heading = title if title.strip() else "γ sweep"
        grid = page(lambda: draw_grid(images, values, traces, heading, subtitle), instead=torch.cat(images, dim=2))
        return io.NodeOutput(grid, torch.cat(images), {"samples": torch.cat(latents)})


def parse_gammas(text: str) -> list[float]:
    """The values of γ in "0, 0.5, 1, 2"; a RetimingError that says what is wrong."""
    if not isinstance(text, str):  # linked to a node that gives anything
        raise RetimingError(f'γ values are text such as "0, 0.5, 1, 2", not {type(text).__name__}.')
    try:
        values = [float(part) for part in text.replace(";", ",").split(",") if part.strip()]
    except ValueError:
        raise RetimingError(f'"{text}" is not a list of γ values; write "0, 0.5, 1, 2".') from None
    if not 1 <= len(values) <= MOST_GAMMAS or len(set(values)) < len(values):
        raise RetimingError(f"Give 1 to {MOST_GAMMAS} different γ values, not {text!r}.")
    if not all(-10 <= value <= 10 for value in values):
        raise RetimingError("Each γ must be a number from −10 to 10.")
    return values


def draw_grid(
    images: Sequence[torch.Tensor], gammas: Sequence[float], traces: Sequence[Trace | None], title: str, subtitle: str
) -> Image.Image:
    """A labelled page: a row for each image (b, h, w, 3) of the batch, a column for each γ."""
    batch = len(images[0])
    rows = [
        Row(f"image {n + 1}" if batch > 1 else "", [Cell(to_pil(column[n].movedim(-1, 0))) for column in images])
        for n in range(batch)
    ]
    notes = ["synchronous" if gamma == 0 else _mean_note(trace) for gamma, trace in zip(gammas, traces, strict=True)]
    return draw_panel(rows, [f"γ = {g:g}" for g in gammas], title=title, subtitle=subtitle, column_notes=notes)


def _mean_note(trace: Trace | None) -> str:
    """The mean of D over the steps that were decided."""
    decided = trace.mean_deviation()[1:] if trace else []
    return f"mean D = {sum(decided) / len(decided):+.2f}" if decided else ""


NODES = [AsynchronousKSampler, ApplyAsynchronousTimesteps, GammaSweep, AsynchronousKSamplerAdvanced]
