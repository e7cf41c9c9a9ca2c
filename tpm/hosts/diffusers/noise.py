"""SD1.x, SD2.x and SDXL: UNets that predict the noise ε or v, told the index of one of their trained timesteps.

Time on the unit line is u = (t + 1)/n for the scheduler's timestep t of n, and 0 at the end of the grid, as in
`retiming.clock.Table`. D = .2 at t = 799 after t = 999 tells the denoiser 759 (t − D·200), and the scheduler makes its
own step: the noise estimate ε is kept, and the clean estimate is taken at the true noise level.

ω scales ε, also where the model predicts v. With p = 1 it is (u*/u)·ε, which is no longer exactly Lying Sigma: that
takes the ratio of two σ.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...errors import HostError
from ...retiming.clock import Table, described
from ...retiming.contract import TextCondition
from ...retiming.equations import Value, clamp
from .calls import Call
from .dialects import Maps, Place

PREDICTIONS = ("epsilon", "v_prediction")
SCHEDULERS = (
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "DDIMScheduler",
    "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler",
)  # fmt: skip
"""Schedulers that evaluate once at each of their timesteps, in falling order, and hand ε or v to their step."""
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "heun": ("HeunDiscreteScheduler", {}),
}
"""The schedulers that make the steps of ComfyUI's samplers of these names.

With a policy, diffusers' Heun holds a step's ratio t*/t at its second evaluation; in ComfyUI that is told the next t*.
"""
SMALLEST = 2.0**-12  # of α, where a schedule ends at pure noise


class NoisePrediction(Maps):
    """A UNet2DConditionModel. Latents are maps, at the scale of the scheduler."""

    part = "unet"
    argument = "timestep"
    note = described(Table)

    def __init__(self, pipe: Any) -> None:
        config = pipe.unet.config
        kind = "sd2" if config.cross_attention_dim == 1024 else "sd1"
        self.backbone = "sdxl" if config.addition_embed_type == "text_time" else kind
        self._levels = int(getattr(pipe.scheduler, "config", {}).get("num_train_timesteps", 1000))

    def told(self, unit: Value) -> Value:
        return clamp(self._levels * unit - 1, 0.0, self._levels - 1.0)

    def scheduler_time(self, told: float) -> float:
        return told

    def levels(self, sigmas: list[float], times: list[float]) -> list[float]:  # noqa: ARG002 - the protocol's
        """See `Dialect`. The timesteps are the index of the noise level: exact, also where they are rounded."""
        return [*((time + 1) / self._levels for time in times), 0.0]

    def check_scheduler(self, scheduler: Any) -> None:
        check_noise_scheduler(scheduler)

    def rows(self, call: Call) -> int | None:
        """See `Dialect`: the pipelines hand over one timestep for the whole call."""
        sample = call.get("sample")
        return len(sample) if isinstance(sample, Tensor) else None

    def prompt(self, call: Call) -> TextCondition:
        added = call.get("added_cond_kwargs") or {}
        return TextCondition(call.get("encoder_hidden_states"), added.get("text_embeds"))

    def layout(self, call: Call) -> Any:  # noqa: ARG002
        return None

    def seen(self, sample: Tensor, place: Place) -> Tensor:
        scaled: Tensor = place.scheduler.scale_model_input(sample, place.timestep)
        return scaled

    def velocity(self, output: Tensor, sample: Tensor, place: Place) -> Tensor:
        """See `Dialect`: ε, which is α·v + s·x for v = α·ε − s·x₀ and x = α·x₀ + s·ε with α² + s² = 1."""
        if place.scheduler.config.prediction_type == "epsilon":
            return output
        alpha, noise = (part.to(output) for part in level_of(place))
        return alpha * output + noise * self.seen(sample, place).to(output.dtype)

    def output(self, scaled: Tensor, velocity: Tensor, output: Tensor, place: Place) -> Tensor:
        """See `Dialect`: x stays, so that v changes by Δε/α."""
        if place.scheduler.config.prediction_type == "epsilon":
            return scaled
        alpha, _ = level_of(place)
        return output + (scaled - velocity) / alpha.clamp(min=SMALLEST).to(output)


def level_of(place: Place) -> tuple[Tensor, Tensor]:
    """(α, s) of x = α·x₀ + s·ε with α² + s² = 1, at an evaluation."""
    scheduler = place.scheduler
    if hasattr(scheduler, "sigmas"):
        sigma = scheduler.sigmas[place.index]
        alpha = (sigma * sigma + 1) ** -0.5
        return alpha, sigma * alpha
    kept = scheduler.alphas_cumprod[int(scheduler.timesteps[place.index])]
    return kept**0.5, (1 - kept) ** 0.5


def check_noise_scheduler(scheduler: Any) -> None:
    """Raise HostError unless this is one of `SCHEDULERS`, over the trained timesteps of a model of ε or v."""
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    if not {family.__name__ for family in type(scheduler).__mro__} & set(SCHEDULERS):
        *names, last = (each.removesuffix("Scheduler") for each in SCHEDULERS)
        raise HostError(
            f"A UNet pipeline runs asynchronously with the schedulers {', '.join(names)} and {last}, not with {name}:"
            " set pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)."
        )
    if config.get("use_flow_sigmas", False) or config.get("timestep_type", "discrete") != "discrete":
        raise HostError(
            f"This {name} does not count in the timesteps that an SD1.x, SD2.x or SDXL was trained on; switch"
            " use_flow_sigmas off and set timestep_type to 'discrete', if the model allows that."
        )
    if config.get("prediction_type") not in PREDICTIONS:
        raise HostError(
            f"A model that predicts {config.get('prediction_type')!r} is not supported; those that predict epsilon or"
            " v_prediction are."
        )


def with_noise_solver(scheduler: Any, solver: str) -> Any:
    """A scheduler with the same trained timesteps that steps as `solver` does; this very one where it already does.

    Raises HostError for a solver that no scheduler of diffusers is.
    """
    import diffusers

    if solver not in SOLVERS:
        *names, last = SOLVERS
        raise HostError(
            f"diffusers has no scheduler that steps as {solver} does for SD1.x, SD2.x and SDXL; use {', '.join(names)}"
            f" or {last}."
        )
    name, settings = SOLVERS[solver]
    made = getattr(diffusers, name).from_config(scheduler.config, **settings)
    kept = type(scheduler) is type(made) and dict(scheduler.config) == dict(made.config)
    return scheduler if kept else made
