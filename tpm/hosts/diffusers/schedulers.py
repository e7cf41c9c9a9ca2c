"""How a diffusers scheduler's run looks from one pixel: its pace, what the denoiser is told, and one step.

`FlowMotion` is Euler for flow models, in fractions of the scheduler's σ grid. `DDIMMotion` is DDIM in the paper's space
of train timesteps. The scheduler itself keeps the count and the background's schedule.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args

from torch import Tensor

from ...errors import HostError
from ...pixelwise.errors import ScheduleError
from ...pixelwise.run import Move
from ...pixelwise.schedules import Levels, SigmaLevels, SlowCurve, TimestepLevels, transition
from ...pixelwise.updates import Prediction, alpha_bar_at, ddim_step, flow_step
from ...retiming.solvers import EULER
from .flow import SD3
from .position import grid_index

Final = Literal["clean", "paper"]  # where the last step ends: at the image itself, or at ᾱ[0]
STOCK_SOLVERS = {
    "FlowMatchEulerDiscreteScheduler": EULER, "FlowMatchHeunDiscreteScheduler": "heun", "EulerDiscreteScheduler": EULER,
    "HeunDiscreteScheduler": "heun", "DPMSolverMultistepScheduler": "dpmpp_2m",
}  # fmt: skip
PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v"}


class Motion(Protocol):
    """What differs between schedulers."""

    scale: float  # the denoiser's `timestep` is scale · level

    @property
    def token(self) -> object:
        """Another object is another run."""

    def begin(self, timestep: Tensor, curve: SlowCurve) -> Levels:
        """The schedule of a run that starts with a call of the denoiser at this timestep."""

    def step(self, call: StepCall, move: Move) -> Any:
        """The scheduler's result, with the sample moved by a step of the run."""


class StepCall:
    """One call of a scheduler's `step`, to be answered in its place."""

    def __init__(self, original: Any, output: Tensor, timestep: Any, sample: Tensor, rest: tuple[Any, Any]) -> None:
        self.original, self.output, self.timestep, self.sample = original, output, timestep, sample
        self.args, self.kwargs = rest

    def run(self) -> Any:
        """The scheduler's own answer; it keeps its count by that."""
        return self.original(self.output, self.timestep, self.sample, *self.args, **self.kwargs)


class FlowMotion:
    """FlowMatchEulerDiscreteScheduler. The background is its grid, bit by bit."""

    def __init__(self, scheduler: Any) -> None:
        check_euler(scheduler)
        self._scheduler, self.scale = scheduler, SD3.scale

    @property
    def token(self) -> object:
        """The σ of the run, which every `set_timesteps` makes anew."""
        return self._scheduler.sigmas

    def begin(self, timestep: Tensor, curve: SlowCurve) -> SigmaLevels:
        """The scheduler's σ from where the run starts."""
        return SigmaLevels(self._scheduler.sigmas[grid_index(self._scheduler, timestep) :], curve)

    def step(self, call: StepCall, move: Move) -> Any:
        """Euler's step; the scheduler keeps its count."""
        sigma, sigma_next = (level.to(call.sample.device) for level in move.levels)
        moved = flow_step(call.sample.float(), call.output, sigma, sigma_next).to(call.output.dtype)
        result = call.run()
        return (moved, *result[1:]) if isinstance(result, tuple) else type(result)(prev_sample=moved)


class DDIMMotion:
    """DDIMScheduler: the paper's T and τ are its num_train_timesteps and steps_offset."""

    def __init__(self, scheduler: Any, final: Final = "clean") -> None:
        check_ddim(scheduler)
        if final not in get_args(Final):
            raise ScheduleError(f"The last step ends {' or '.join(get_args(Final))}, not {final!r}.")
        self._scheduler, self._final, self.scale = scheduler, final, 1.0
        self._train_steps = int(scheduler.config.num_train_timesteps)
        self._prediction = PREDICTIONS[scheduler.config.prediction_type]

    @property
    def token(self) -> object:
        """The timesteps of the run, which every `set_timesteps` makes anew."""
        return self._scheduler.timesteps

    def begin(self, timestep: Tensor, curve: SlowCurve) -> TimestepLevels:
        """The scheduler's timesteps. Raises HostError when the run does not start at noise."""
        timesteps = self._scheduler.timesteps
        if int(timestep.reshape(-1)[0]) != int(timesteps[0]):
            raise HostError("Pixel-wise denoising with DDIM starts at noise; use strength 1 in an image-to-image run.")
        return TimestepLevels(timesteps, self._train_steps, self._scheduler.config.steps_offset, curve)

    def step(self, call: StepCall, move: Move) -> Any:
        """DDIM's step. η and the generator are those that the pipeline was called with."""
        from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput

        t, t_next = transition(*move.states, self._train_steps)
        alphas = self._scheduler.alphas_cumprod
        pair = (alpha_bar_at(t, alphas), alpha_bar_at(t_next, alphas, clean=move.last and self._final == "clean"))
        eta = float(call.kwargs.get("eta", 0.0))
        moved = ddim_step(
            call.sample,
            call.output,
            *(value.to(call.sample.device) for value in pair),
            prediction=self._prediction,
            eta=eta,
            noise=drawn_noise(call) if eta > 0 else None,
        )
        return DDIMSchedulerOutput(prev_sample=moved) if call.kwargs.get("return_dict", True) else (moved,)


def drawn_noise(call: StepCall) -> Tensor:
    """The z that DDIMScheduler would draw, so that a seed means the same noise."""
    from diffusers.utils.torch_utils import randn_tensor

    output, given = call.output, call.kwargs.get("variance_noise")
    if isinstance(given, Tensor):
        return given
    generator = call.kwargs.get("generator")
    return randn_tensor(output.shape, generator=generator, device=output.device, dtype=output.dtype)


def check_euler(scheduler: Any) -> None:
    """Raise HostError unless the scheduler is the deterministic, first-order Euler of flow models."""
    families = families_of(scheduler)
    if "FlowMatchEulerDiscreteScheduler" not in families or solver_of(scheduler) != EULER:
        raise HostError(
            f"Pixel-wise denoising needs a first-order sampler, since every pixel has its own σ: use"
            f" FlowMatchEulerDiscreteScheduler instead of {families[0]}."
        )
    if scheduler.config.get("stochastic_sampling", False):
        raise HostError("Pixel-wise denoising of flow models is deterministic; switch stochastic_sampling off.")


def check_ddim(scheduler: Any) -> None:
    """Raise HostError unless the scheduler is DDIM as SD1.x, SD2.x and SDXL use it."""
    families, config = families_of(scheduler), scheduler.config
    if "DDIMScheduler" not in families:
        raise HostError(
            f"Pixel-wise denoising needs a first-order sampler, since every pixel has its own noise level: use"
            f" DDIMScheduler.from_config(pipe.scheduler.config) instead of {families[0]}."
        )
    if config.prediction_type not in PREDICTIONS:
        raise HostError(f"A model that predicts {config.prediction_type!r} is not supported; eps and v are.")
    if config.clip_sample or config.thresholding:
        raise HostError("Pixel-wise denoising does not clip its estimates; switch clip_sample and thresholding off.")


def families_of(scheduler: Any) -> list[str]:
    """The names of a scheduler's classes, its own first."""
    return [family.__name__ for family in type(scheduler).__mro__]


def solver_of(scheduler: Any) -> str:
    """The solver that a scheduler is, in ComfyUI's word; the name of its class where there is no word for it."""
    families = families_of(scheduler)
    named = getattr(type(scheduler), "solver", None)
    stock = (word for family, word in STOCK_SOLVERS.items() if family in families)
    return str(named or next(stock, families[0]))
