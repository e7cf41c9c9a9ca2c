"""Nodes that make a policy: who decides the deviation."""

from __future__ import annotations

import hashlib
from typing import Any

from comfy_api.latest import io

from ...tpm.documents import as_object
from ...tpm.errors import PolicyError
from ...tpm.files import parse_json
from ...tpm.policies import READOUTS, Constant, Curve, Learned, Recorded
from ...tpm.policies.axes import AXES, axis_of
from ...tpm.retiming.equations import DEFAULT_BOUND
from ...tpm.retiming.trace import Trace
from .. import sockets
from ..schema import refusal, schema
from .automatic import Automatic
from .policy_names import AUTOMATIC, file_of, listed, load, policy_files, renamed
from .record import RunRecord, trace_of

CURVE_POINTS = 33  # knots that stand for a smooth curve
UNCONNECTED = object()  # an optional socket that the host does not speak of; a connected one is None when it validates
DEFAULT_CURVE = [(0.0, 0.5), (0.5, 0.7), (1.0, 0.5)]


class LoadTPM(io.ComfyNode):
    """A TPM or a policy file from models/tpm, or one that is shipped."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffLoadTPM",
            display_name="Load Policy (TPM or Preset)",
            description="Loads who decides how far the timestep that the model is told deviates: a policy or a timestep"
            " prediction module (TPM) from models/tpm, or a preset of the pack. Presets for SD3.5 and Flux are the"
            " paper's mean deviations, as constants. Those that say tail_sync 1 were made with it: set it at the"
            " sampler.",
            search_aliases=[
                "load tpm",
                "load policy",
                "tpm",
                "asyncdiff",
                "asynchronous",
                "timestep prediction",
                "policy",
                "preset",
                "retiming",
            ],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=[AUTOMATIC, *policy_files()],
                    tooltip="automatic: the preset of the model that is sampled, where it has one. Or a file of"
                    " models/tpm (.safetensors: a TPM; .json: a policy or a saved trace), or a preset: the models that"
                    " it is for, its kind, and where it comes from. SD3.5 stands for SD3 as well.",
                    extra_dict={"renamed": renamed()},
                ),
                io.Combo.Input(
                    "readout",
                    options=list(READOUTS),
                    default="mode",
                    tooltip="How a TPM's Beta distribution becomes one deviation: its mode (the paper), its mean, or a"
                    " random draw. Presets and curves have no distribution and ignore it.",
                ),
            ],
            outputs=[sockets.policy_output()],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        """Take the names of older releases as well, and refuse a policy that is not there."""
        return refusal(listed, name)

    @classmethod
    def execute(cls, name: str, readout: str) -> io.NodeOutput:
        policy = Automatic() if name == AUTOMATIC else load(name)
        if isinstance(policy, Learned):
            policy.readout = readout  # type: ignore[assignment]
        return io.NodeOutput(policy)

    @classmethod
    def fingerprint_inputs(cls, name: str, readout: str) -> str:
        """A replaced file is loaded again."""
        try:
            path = file_of(name)
        except PolicyError:
            path = None
        stat = path.stat() if path else None
        return hashlib.sha256(repr((name, readout, stat and (stat.st_size, stat.st_mtime_ns))).encode()).hexdigest()


class ConstantDeviation(io.ComfyNode):
    """The same D at every step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffConstantDeviation",
            display_name="Constant Deviation",
            description="The same deviation at every step, without a TPM: the paper's RL-free policy. 0.2 is its mean"
            " for SD3.5.",
            search_aliases=["asyncdiff", "constant", "deviation", "detail", "more detail", "add detail", "RL-free"],
            inputs=[
                io.Float.Input(
                    "deviation",
                    default=0.2,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="In steps: +0.2 tells the model a timestep a fifth of a step ahead (cleaner, more detail);"
                    " negative values tell it an earlier one (smoother).",
                )
            ],
            outputs=[sockets.policy_output()],
        )

    @classmethod
    def execute(cls, deviation: float) -> io.NodeOutput:
        return io.NodeOutput(cls.policy(deviation))

    @staticmethod
    def policy(deviation: float) -> Constant:
        """The policy of the widget; beyond ±0.5 it has the lifted bound."""
        return Constant(deviation, bound=0.5 if abs(deviation) <= 0.5 else 1.0)


class DeviationCurve(io.ComfyNode):
    """D as a function of σ, of the step, or of the log-SNR."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffDeviationCurve",
            display_name="Deviation Curve",
            description="Draw the deviation over the noise level σ: left is the finished image, right is pure noise."
            " The middle height is no deviation, the top is +bound, the bottom −bound. Fits any scheduler and step"
            " count. With another axis left is the first step and right is the finished image.",
            search_aliases=["asyncdiff", "curve", "schedule", "deviation", "detail daemon"],
            inputs=[
                _curve_input(),
                io.Float.Input(
                    "bound",
                    default=0.5,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    tooltip="The deviation, in steps, at the top of the curve; the bottom is its negative.",
                ),
                io.Combo.Input(
                    "axis",
                    options=list(AXES),
                    default="sigma",
                    optional=True,
                    tooltip="What the curve is drawn over. sigma: the noise level, 0 … 1, the finished image on the"
                    " left. step: the part of the steps that is done, 0 … 1. log_snr: 2·log((1 − σ)/σ), from −10"
                    " (noise, on the left) to 10. The last two leave room for the high σ of video models.",
                ),
                io.String.Input(
                    "points",
                    default="",
                    optional=True,
                    tooltip="The curve as text, used in place of the drawing where it is filled: noise level σ and"
                    ' height, each 0 … 1, such as "0: 0.5, 0.5: 0.7, 1: 0.5". For the classic canvas, which draws no'
                    " editor.",
                ),
            ],
            outputs=[sockets.policy_output()],
        )

    @classmethod
    def validate_inputs(
        cls, curve: Any = None, bound: float | None = None, axis: str | None = None, points: str | None = ""
    ) -> bool | str:
        """Refuse a curve that cannot be read before anything is queued."""
        return refusal(cls.policy, curve, DEFAULT_BOUND if bound is None else bound, axis or "sigma", points)

    @classmethod
    def execute(cls, curve: Any, bound: float, axis: str = "sigma", points: str = "") -> io.NodeOutput:
        return io.NodeOutput(cls.policy(curve, bound, axis, points))

    @staticmethod
    def policy(curve: Any, bound: float, axis: str = "sigma", points: str = "") -> Curve:
        """The policy of the widgets; the whole width of the drawing is the whole axis. Text comes before a drawing."""
        drawn = points if isinstance(points, str) and points.strip() else curve
        pairs, along = _text_points(drawn) if isinstance(drawn, str) else _drawn_points(drawn), axis_of(axis)
        knots = [(along.at(part), bound * (2 * height - 1)) for part, height in pairs]
        return Curve(knots, bound=bound, axis=axis)


def _curve_input() -> Any:
    """Core's curve editor where the host has one, else text in the same units."""
    about = (
        "Deviation over the noise level σ, or over axis. Points: σ (0 … 1) and height (0.5 of 0 … 1 is no deviation)."
    )
    if hasattr(io, "Curve"):
        return io.Curve.Input("curve", default=DEFAULT_CURVE, tooltip=about)
    text = ", ".join(f"{sigma:g}: {height:g}" for sigma, height in DEFAULT_CURVE)
    return io.String.Input("curve", default=text, tooltip=f'{about} As text: "{text}".')


def _text_points(text: str) -> list[tuple[float, float]]:
    """Points of the text form "0: 0.5, 1: 0.7"."""
    try:
        pairs = [part.split(":") for part in text.replace(";", ",").split(",") if part.strip()]
        return [(float(sigma), float(height)) for sigma, height in pairs]
    except ValueError:
        raise PolicyError(f'The curve "{text}" cannot be read; write points as "0: 0.5, 0.5: 0.7, 1: 0.5".') from None


def _drawn_points(curve: Any) -> list[tuple[float, float]]:
    """Knots of core's curve: its own points where it is linear, else samples of the smooth line."""
    from comfy_api.input import CurveInput

    places = [k / (CURVE_POINTS - 1) for k in range(CURVE_POINTS)]
    try:
        drawn = CurveInput.from_raw(curve)
        if type(drawn).__name__ == "LinearCurve":
            return [(float(sigma), float(height)) for sigma, height in drawn.points]
        return [(place, float(drawn.interp(place))) for place in places]
    except (TypeError, ValueError, LookupError, AttributeError) as cause:
        raise PolicyError(f"The curve cannot be read ({cause}); draw it again.") from cause


class PolicyFromTrace(io.ComfyNode):
    """Replays a recorded run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffPolicyFromTrace",
            display_name="Policy from Trace",
            description="Repeats what another run decided, without its TPM file: connect a trace, or paste the text"
            " that Deviation Plot gives. Needs the same scheduler and steps, and for a per-image trace the same batch.",
            search_aliases=["asyncdiff", "replay", "trace", "recorded"],
            inputs=[
                sockets.Trace.Input("trace", optional=True, tooltip="The trace of another sampler."),
                io.String.Input(
                    "text", multiline=True, default="", tooltip="The trace as JSON; used where no trace is connected."
                ),
                sockets.after_input(),
            ],
            outputs=[sockets.policy_output()],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None, trace: Any = UNCONNECTED) -> bool | str:
        """Refuse text that is no trace before anything is queued, where no trace is connected in place of it."""
        return trace is not UNCONNECTED or not text or not text.strip() or refusal(_trace_from, text)

    @classmethod
    def execute(
        cls,
        text: str = "",
        trace: Trace | RunRecord | None = None,
        after: Any = None,  # noqa: ARG003 - waits for it
    ) -> io.NodeOutput:
        if trace is None and not (isinstance(text, str) and text.strip()):
            raise PolicyError("Policy from Trace has nothing to replay: connect a trace or paste its text.")
        return io.NodeOutput(Recorded(_trace_from(text) if trace is None else trace_of(trace)))


def _trace_from(text: str) -> Trace:
    document = parse_json(text, PolicyError, "The text")
    return Trace.from_dict(as_object(document, PolicyError, "The text"), "The text")


class DeviationScale(io.ComfyNode):
    """One γ for several samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffDeviationScale",
            display_name="Deviation Scale (γ)",
            description="One slider that feeds the deviation strength of several samplers.",
            search_aliases=["asyncdiff", "gamma", "slider", "deviation", "detail", "more detail", "add detail"],
            inputs=[sockets.gamma_input()],
            outputs=[
                io.Float.Output(
                    "gamma_out",
                    display_name="strength (γ)",
                    tooltip="Connect it to the deviation strength of each sampler.",
                )
            ],
        )

    @classmethod
    def execute(cls, gamma: float) -> io.NodeOutput:
        """Pass the slider's value on."""
        return io.NodeOutput(gamma)


NODES = [LoadTPM, ConstantDeviation, DeviationCurve, PolicyFromTrace, DeviationScale]
