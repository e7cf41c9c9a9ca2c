"""Nodes that show what a run decided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io, ui

from ...tpm.drawing import retiming_chart, step_distribution
from ...tpm.errors import PolicyError
from ...tpm.numbers import strength
from ...tpm.retiming.trace import Entry, Trace
from .. import sockets
from ..images import to_image
from ..schema import schema
from .record import RunRecord, trace_of


class DeviationPlot(io.ComfyNode):
    """The charts of a trace, and its text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffDeviationPlot",
            display_name="Deviation Plot",
            description="What a run decided: the noise level of the latent and the timestep that the model is told,"
            " step by step, and the deviation per step over the images of the batch. The text can be saved and"
            " replayed with Policy from Trace.",
            search_aliases=["asyncdiff", "plot", "chart", "trace", "deviation", "timestep"],
            inputs=[
                sockets.Trace.Input("trace", tooltip="The trace of an Asynchronous KSampler."),
                io.String.Input("title", default="", tooltip="A heading; empty: the policy's name."),
                sockets.after_input(),
            ],
            outputs=[
                io.Image.Output(
                    "timesteps",
                    tooltip="Per step the noise level of the latent and the timestep that the model is told, and how"
                    " far it is ahead.",
                ),
                io.Image.Output("deviations", tooltip="The deviation per step: every image a dot, quartiles as a box."),
                io.String.Output("text", tooltip="The trace as JSON."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, trace: Trace | RunRecord, title: str, after: Any = None) -> io.NodeOutput:  # noqa: ARG003 - waits
        """Draw both charts and show the first on the node."""
        trace = trace_of(trace)
        if not trace.steps:
            raise PolicyError("This trace holds no step; connect the trace of a sampler that ran at least one step.")
        subtitle = describe(trace)
        heading = title or f"What {trace.policy.get('name', 'the policy')} told the denoiser"
        timesteps = to_image(draw_timesteps(trace, heading, subtitle))
        deviations = to_image(
            step_distribution(
                [_values(entry) for entry in trace.deviation],
                title=heading,
                subtitle=f"{subtitle} · rings: the deviation before the timestep was clamped"
                if any(map(_any, trace.clamped))
                else subtitle,
                proposed=[_values(entry) for entry in trace.proposed],
            )
        )
        text = json.dumps(trace.to_dict(), ensure_ascii=False)
        return io.NodeOutput(timesteps, deviations, text, ui=ui.PreviewImage(timesteps, cls=cls))


def draw_timesteps(trace: Trace, title: str, subtitle: str) -> Any:
    """The chart of t* per step beside the synchronous one."""
    label = strength(trace.retiming.get("gamma", 1))
    told = [_values(entry) for entry in trace.t_star]
    return retiming_chart(trace.sigmas[: trace.steps], {label: told}, title=title, subtitle=subtitle)


def describe(trace: Trace) -> str:
    """The settings of a run in one line."""
    settings = trace.retiming
    parts = [f"{trace.steps} steps", strength(settings.get("gamma", 1)), f"bound {settings.get('bound', 0.5):g}"]
    if settings.get("tail_sync"):
        parts.append(f"tail_sync {settings['tail_sync']}")
    if settings.get("velocity_coupling"):
        parts.append(f"p = {settings['velocity_coupling']:g}")
    return " · ".join([*parts, *trace.notes])


def _any(entry: bool | list[bool]) -> bool:
    return any(entry) if isinstance(entry, list) else entry


def _values(entry: Entry) -> Sequence[float]:
    return entry if isinstance(entry, list) else [entry]


NODES = [DeviationPlot]
