"""The pack's own socket types, and the widgets that several nodes share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..tpm.errors import RetimingError
from ..tpm.pixelwise.schedules import CURVES
from ..tpm.retiming.settings import Retiming

Policy = io.Custom("ASYNCDIFF_POLICY")
Trace = io.Custom("ASYNCDIFF_TRACE")
RewardModel = io.Custom("ASYNCDIFF_REWARD_MODEL")
Scores = io.Custom("ASYNCDIFF_SCORES")
Regions = io.Custom("ASYNCDIFF_REGIONS")

PRESET = "asyncdiff_preset"
"""Under which a loader of this pack attaches the name of a preset to its MODEL."""

BOUNDS = {"from policy": None, "0.5 (paper)": 0.5, "1.0 (lifted)": 1.0}
"""What the bound widget offers, and B."""


def policy_input(optional: bool = False) -> Any:
    """The socket that says who decides the deviation."""
    tooltip = (
        "Who decides how far the timestep deviates: Load Policy, Constant Deviation, Deviation Curve or Policy from"
        " Trace."
    )
    if optional:
        tooltip += " Without one the model's preset decides; a model that has none is sampled synchronously."
    return Policy.Input("policy", optional=optional, tooltip=tooltip)


def policy_output() -> Any:
    """What the nodes that make a policy give."""
    return Policy.Output(
        "policy", tooltip="Connect it to Asynchronous KSampler, Apply Asynchronous Timesteps or γ Sweep."
    )


def gamma_input() -> Any:
    """The γ slider."""
    return io.Float.Input(
        "gamma",
        display_name="deviation strength (γ)",
        default=1.0,
        min=0.0,
        max=2.0,
        step=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip="How strongly the policy acts. 0 is the ordinary sampler, to the bit. 1 is the policy as it is. Higher"
        " values tell the model that the latent is cleaner than it is, which adds detail.",
    )


def retiming_inputs() -> list[Any]:
    """Bound, tail_sync and p: how the policy's actions are applied."""
    return [
        io.Combo.Input(
            "bound",
            options=list(BOUNDS),
            default="from policy",
            tooltip="Largest deviation at strength 1, in steps. The paper uses 0.5; 1.0 is its lifted bound, which"
            " doubles what the same policy does. A preset or TPM knows the bound it was made for.",
        ),
        io.Int.Input(
            "tail_sync",
            default=0,
            min=0,
            max=1000,
            tooltip="The last n steps run synchronously. 1 removes the grain that a deviation on the last step leaves.",
        ),
        io.Float.Input(
            "velocity_coupling",
            display_name="velocity coupling (p)",
            default=0.0,
            min=-1.0,
            max=2.0,
            step=0.05,
            tooltip="0 (AsyncDiff): only the timestep that the model is told changes. 1: the step's length shrinks"
            " with it, as Detail Daemon and Lying Sigma do. Values between mix the two.",
        ),
    ]


def part_inputs() -> list[Any]:
    """What a node needs that samples a part of a run: the part before it, and whether it is an expert of its own."""
    return [
        Trace.Input(
            "before",
            optional=True,
            tooltip="The trace of the part before this one. A TPM needs it to go on where that part ended; the trace"
            " of this part then shows both.",
        ),
        io.Boolean.Input(
            "stay_in_part",
            default=False,
            optional=True,
            label_on="this part",
            label_off="whole run",
            tooltip="Keep the timestep that the model is told within the noise levels of this part of the run. Turn it"
            " on for models with two experts, such as Wan 2.2, so that neither is told a level it was not trained for.",
        ),
    ]


def after_input() -> Any:
    """What makes a node wait for the run whose trace it reads."""
    return io.Latent.Input(
        "after",
        optional=True,
        tooltip="For the trace of Apply Asynchronous Timesteps: connect the latent of the sampler that uses the"
        " patched model, so that this node waits until it has sampled.",
    )


def retiming_from(
    gamma: float, bound: str, tail_sync: int, velocity_coupling: float, stay_in_part: bool = False
) -> Retiming:
    """The library's settings from the widgets' values. Raises RetimingError, also for what another node gives."""
    if not isinstance(bound, str) or bound not in BOUNDS:
        raise RetimingError(f"bound is one of {', '.join(BOUNDS)}, not {bound!r}.")
    return Retiming(
        gamma=gamma,
        bound=BOUNDS[bound],
        tail_sync=tail_sync,
        velocity_coupling=velocity_coupling,
        within_part=stay_in_part,
    )


# --- pixel-wise ---------------------------------------------------------------------------------------------------


def regions_input(tooltip: str) -> Any:
    """The socket that says what is slowed down."""
    return Regions.Input("regions", tooltip=tooltip)


def regions_output() -> Any:
    """What the nodes that make regions give."""
    return Regions.Output(
        "regions",
        tooltip="Connect it to Apply Pixel-wise Asynchronous Denoising, and to the previews of regions and schedule.",
    )


def strength_input(tooltip: str) -> Any:
    """The k of a region."""
    return io.Float.Input(
        "strength",
        display_name="strength (k)",
        default=0.5,
        min=0.0,
        max=1.0,
        step=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip=tooltip,
    )


def schedule_inputs() -> list[Any]:
    """Curve, control and scale: how the regions go from noise to image."""
    return [
        io.Combo.Input(
            "curve",
            options=list(CURVES),
            default=CURVES[0],
            tooltip="How a region lags behind: quadratic (the paper's bin), piecewise linear (lin), exponential (exp).",
        ),
        io.Boolean.Input(
            "concave",
            default=False,
            label_on="concave",
            label_off="pixel-wise",
            tooltip="The control of the paper: every pixel on the curve of the strongest region, so that only the"
            " schedule differs from an ordinary run. Much of the gain is this; compare before you credit the regions.",
        ),
        io.Float.Input(
            "scale",
            default=1.0,
            min=0.0,
            max=2.0,
            step=0.01,
            display_mode=io.NumberDisplay.slider,
            tooltip="Multiplies every strength k, up to k = 1. 0 is the ordinary Euler sampler, to the bit.",
        ),
    ]
