"""γ Sweep: one seed at several γ, side by side, with a strip in the node to look through them."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ...tpm.policies import Policy
from .. import sockets
from ..images import page
from ..latents import about, check_pictures, decoded, joined
from ..schema import refusal, schema
from .axes import AXES, MOST_GAMMAS, MOST_RUNS, MOST_SECOND, NO_AXIS, Setting, check_axes, parse_gammas, rows_of
from .explorer import KEY, Explorer
from .nodes_sampling import ksampler_inputs
from .sweep import Shared, Sweep
from .sweep_page import described, draw_grid, side_by_side

INSTEAD = (
    "Connect the VAE of the pictures; for sound or a shape use one Asynchronous KSampler for each strength (γ) in its"
    " place (Deviation Scale feeds several), and decode each."
)


class GammaSweep(io.ComfyNode):
    """One seed at several γ, side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffGammaSweep",
            display_name="γ Sweep",
            description="Samples the same seed at several deviation strengths (γ) and shows the images side by side,"
            " labelled: of a video its first, middle and last frame. In the node a slider goes through them, a wipe"
            " compares two, and one more γ costs one more run.",
            search_aliases=[
                "asyncdiff",
                "gamma",
                "sweep",
                "grid",
                "compare",
                "xy plot",
                "explore",
                "γ explorer",
                "wipe",
            ],
            inputs=[
                *ksampler_inputs(),
                io.Vae.Input("vae", tooltip="Decodes the images of the grid."),
                sockets.policy_input(),
                io.String.Input(
                    "gammas",
                    display_name="strengths (γ)",
                    default="0, 0.5, 1, 2",
                    tooltip="The deviation strengths (γ), separated by commas, each −10 … 10.",
                ),
                *sockets.retiming_inputs(),
                io.String.Input("title", default="", tooltip="A heading for the grid, such as the prompt."),
                *second_inputs(),
                io.Int.Input(
                    "gammas_at_once",
                    default=1,
                    min=1,
                    max=MOST_GAMMAS,
                    optional=True,
                    advanced=True,
                    tooltip="How many strengths (γ) are sampled as one batch: more are faster where one image does not"
                    " keep the device busy, and take that much more memory. Pictures are then equal to those of 1 but"
                    " for rounding; at 1 they are those of Asynchronous KSampler to the bit.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "grid",
                    tooltip="One labelled picture: a row per image of the batch, a column per strength; all rows again"
                    " for each value of the second axis.",
                ),
                io.Image.Output(
                    "images",
                    tooltip="All images, or all frames: the whole batch at the first strength, then at the next; then"
                    " the same at the next value of the second axis.",
                ),
                io.Latent.Output("latents", tooltip="The same as latents, in the same order."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls, gammas: str | None = None, second_axis: str | None = None, second_values: str | None = None
    ) -> bool | str:
        """Refuse lists that cannot be read before anything is queued."""
        if second_axis is None or second_values is None:
            return refusal(parse_gammas, gammas)
        return refusal(check_axes, "0" if gammas is None else gammas, second_axis, second_values)

    @classmethod
    def execute(
        cls, model: Any, seed: int, steps: int, cfg: float, sampler_name: str, scheduler: str, positive: Any,
        negative: Any, latent_image: dict[str, Any], denoise: float, vae: Any, policy: Policy, gammas: str, bound: str,
        tail_sync: int, velocity_coupling: float, title: str, second_axis: str = NO_AXIS, second_values: str = "",
        gammas_at_once: int = 1,
    ) -> io.NodeOutput:  # fmt: skip
        """Sample once for each γ and value of the second axis; what was made before is not made again."""
        check_axes(gammas, second_axis, second_values)
        values = parse_gammas(gammas)
        check_pictures("γ Sweep shows pictures", model, vae, latent_image["samples"], INSTEAD)
        setting = Setting(seed, steps, cfg, policy, bound, tail_sync, velocity_coupling)
        rows = [row.on(model) for row in rows_of(setting, second_axis, second_values)]
        shared = Shared(model, sampler_name, scheduler, positive, negative, latent_image, denoise, gammas_at_once)
        explorer = Explorer(cls.hidden.unique_id, values, rows, second_axis)
        made = Sweep(shared, vae, explorer, cls.hidden.unique_id).run(rows, values)
        images = [run.pictures_by(vae, decoded) for run in made]
        heading = title if title.strip() else "γ sweep"
        subtitle = described(rows[0], sampler_name, scheduler, second_axis)
        labels, traces = [row.label for row in rows], [run.trace for run in made]
        grid = page(
            lambda: draw_grid(images, values, traces, heading, subtitle, labels),
            instead=side_by_side(images, len(values)),
        )
        everything = torch.cat([column.flatten(0, 1) for column in images])
        latents = about(latent_image) | {"samples": joined([run.latent for run in made])}
        return io.NodeOutput(grid, everything, latents, ui={KEY: [explorer.document()]})


def second_inputs() -> list[Any]:
    """One more setting with values of its own."""
    return [
        io.Combo.Input(
            "second_axis",
            options=[NO_AXIS, *AXES],
            default=NO_AXIS,
            optional=True,
            tooltip="One more setting to vary: each of its values has a row with every strength.",
        ),
        io.String.Input(
            "second_values",
            default="",
            optional=True,
            tooltip="The values of the second axis, separated by commas, such as 1, 3, 5 for cfg, or names of Load"
            f" Policy's list for policy. 1 to {MOST_SECOND}, and {MOST_RUNS} runs in all.",
        ),
    ]


NODES = [GammaSweep]
