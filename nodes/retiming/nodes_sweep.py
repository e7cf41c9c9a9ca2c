"""γ Sweep: one seed at several γ, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
from ..latents import check_pictures, chosen_frames, decoded, joined
from ..schema import refusal, schema
from .automatic import fitting
from .live import LiveView
from .nodes_sampling import ksampler_inputs
from .patch import attach
from .shared import Made, Remembered, can_share

MOST_GAMMAS = 16
OF_ONE_BATCH = ("noise_mask", "batch_index", "downscale_ratio_spacial", "downscale_ratio_temporal")
"""What a LATENT says of the samples that it holds now, so that it does not hold for those of all γ."""
INSTEAD = (
    "Connect the VAE of the pictures; for sound or a shape use one Asynchronous KSampler for each γ in its place"
    " (Deviation Scale feeds several), and decode each."
)
_LATEST = Remembered()  # the latest γ Sweep


class GammaSweep(io.ComfyNode):
    """One seed at several γ, side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffGammaSweep",
            display_name="γ Sweep",
            description="Samples the same seed at several γ and shows the images side by side, labelled: of a video its"
            " first, middle and last frame.",
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
                io.Image.Output(
                    "images", tooltip="All images, or all frames: the whole batch at the first γ, then at the next."
                ),
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
        policy, _ = fitting(policy, model)
        check_pictures("γ Sweep shows pictures", model, vae, latent_image["samples"], INSTEAD)
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
            images.append(decoded(vae, made.latent))
            traces.append(made.trace)
        subtitle = f"seed {seed} · {steps} steps · cfg {cfg:g} · {sampler_name} · {scheduler} · policy {policy.name}"
        heading = title if title.strip() else "γ sweep"
        chosen = [column[:, chosen_frames(column.shape[1])].flatten(0, 1) for column in images]
        grid = page(lambda: draw_grid(images, values, traces, heading, subtitle), instead=torch.cat(chosen, dim=2))
        everything = torch.cat([column.flatten(0, 1) for column in images])
        return io.NodeOutput(grid, everything, _about(latent_image) | {"samples": joined(latents)})


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
    """A labelled page with a column (b, t, h, w, 3) for each γ: a row for each image of the batch, t = 1.

    Of a video of t frames only the first, the middle and the last have a row.
    """
    batch, frames = images[0].shape[:2]
    rows = [_row(n, frame, images) for n in range(batch) for frame in chosen_frames(frames)]
    notes = ["synchronous" if gamma == 0 else _mean_note(trace) for gamma, trace in zip(gammas, traces, strict=True)]
    return draw_panel(rows, [f"γ = {g:g}" for g in gammas], title=title, subtitle=subtitle, column_notes=notes)


def _row(n: int, frame: int, images: Sequence[torch.Tensor]) -> Row:
    """One frame of one image at every γ."""
    label, detail = _labels(n, frame, *images[0].shape[:2])
    return Row(label, [Cell(to_pil(column[n, frame].movedim(-1, 0))) for column in images], detail)


def _labels(n: int, frame: int, batch: int, frames: int) -> tuple[str, str]:
    """A row's label and, below it, its detail."""
    which = f"image {n + 1}" if frames == 1 else f"video {n + 1}"
    when = f"frame {frame + 1} of {frames}"
    if frames == 1:
        return (which if batch > 1 else ""), ""
    return (which, when) if batch > 1 else (when, "")


def _about(latent: dict[str, Any]) -> dict[str, Any]:
    """What a LATENT says beside its samples and of all of them, such as the rate of its sound."""
    return {name: value for name, value in latent.items() if name not in ("samples", *OF_ONE_BATCH)}


def _mean_note(trace: Trace | None) -> str:
    """The mean of D over the steps that were decided."""
    decided = trace.mean_deviation()[1:] if trace else []
    return f"mean D = {sum(decided) / len(decided):+.2f}" if decided else ""


NODES = [GammaSweep]
