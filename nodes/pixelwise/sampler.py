"""The sampler: first-order steps in which every pixel goes from its own σ to its own next one."""

from __future__ import annotations

from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.samplers
from torch import Tensor
from tqdm.auto import trange

from ...tpm.errors import HostError
from ...tpm.pixelwise.course import Course
from ...tpm.pixelwise.errors import ScheduleError
from ...tpm.pixelwise.parametrization import Kind, noised
from ...tpm.pixelwise.regions import check_divisible
from ...tpm.pixelwise.schedules import Curve
from ...tpm.pixelwise.source import Source
from ...tpm.pixelwise.updates import flow_step, sigma_step
from .retiming import retimed
from .step import KEY, STEP, Step, kind_of


class PixelwiseSampler(comfy.samplers.Sampler):
    """Euler (η = 0) or ancestral Euler (η = 1) per pixel, on the host's σ as the background's schedule.

    concave: the control, all pixels on the curve of the strongest region. scale: multiplies every strength k; 0 is the
    host's own sampler, to the bit, unless a policy decides a deviation.
    """

    def __init__(self, curve: Curve, concave: bool = False, scale: float = 1.0, eta: float = 0.0) -> None:
        self.curve, self.concave, self.scale, self.eta = curve, concave, scale, eta

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        """See `comfy.samplers.Sampler`. Raises HostError, RegionError or ScheduleError for what cannot run."""
        model = model_of(extra_args)
        sampling = model_wrap.inner_model.model_sampling
        self._check(model, model_wrap, kind_of(sampling), noise)
        if self.scale == 0 and model.retimer is None:
            return self._host().sample(
                model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
            )
        start = sampling.noise_scaling(sigmas[0], noise, latent_image, self.max_denoise(model_wrap, sigmas))
        run = Run(
            self, model, Evaluator(model_wrap, sigmas, extra_args, noise, latent_image, denoise_mask), disable_pbar
        )
        return sampling.inverse_noise_scaling(sigmas[-1], run.sample(start, callback))

    def _host(self) -> Any:
        """What this sampler is when nothing is slowed down."""
        if self.eta == 0:
            return comfy.samplers.ksampler("euler")
        return comfy.samplers.ksampler("euler_ancestral", {"eta": self.eta})

    def _check(self, model: Any, guider: Any, kind: Kind, noise: Tensor) -> None:
        if kind == "flow" and self.eta > 0:
            raise ScheduleError("Pixel-wise denoising of flow models is deterministic; set η to 0.")
        if noise.ndim != 4:
            raise HostError(f"Pixel-wise denoising is for images, not for a latent of {tuple(noise.shape)}.")
        check_divisible((noise.shape[-2], noise.shape[-1]), model.network.unit)
        if any("area" in cond for conds in guider.conds.values() for cond in conds):
            raise HostError(
                "Pixel-wise denoising cannot run a conditioning that is cropped to an area; use Conditioning (Set Mask)"
                " with the default bounds, or remove the area."
            )


def model_of(extra_args: dict[str, Any]) -> Any:
    """The patched model of a run. Raises HostError without one."""
    model = extra_args["model_options"].get("transformer_options", {}).get(KEY)
    if model is None:
        raise HostError(
            "Pixel-wise Asynchronous Sampler needs a model from Apply Pixel-wise Asynchronous Denoising; put that node"
            " before the sampler."
        )
    return model


class Evaluator:
    """Calls the guider at σ_ref = sigmas[i], with a step's maps in its options; inpainting keeps each pixel's own σ."""

    def __init__(
        self, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], noise: Tensor, latent: Tensor | None,
        denoise_mask: Tensor | None,
    ) -> None:  # fmt: skip
        self.guider, self.sigmas, self.noise = guider, sigmas, noise
        self.seed, self.options = extra_args.get("seed"), extra_args["model_options"]
        self.sampling = guider.inner_model.model_sampling
        self.kind = kind_of(self.sampling)
        self._latent, self._mask = latent, denoise_mask

    def __call__(self, x: Tensor, index: int, step: Step) -> Tensor:
        """The denoised latent of step `index`."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        ref = self.sigmas[index]
        transformer = {**self.options.get("transformer_options", {}), STEP: step}
        options = {**self.options, "transformer_options": transformer}
        mask, latent = self._mask_at(ref), self._latent
        if mask is None or latent is None:
            return self.guider(x, ref * x.new_ones(len(x)), model_options=options, seed=self.seed)
        kept = noised(self.kind, latent, self.noise, ref if step.sigma is None else step.sigma, self._scale)
        x = x * mask + kept * (1 - mask)
        denoised = self.guider(x, ref * x.new_ones(len(x)), model_options=options, seed=self.seed)
        return denoised * mask + latent * (1 - mask)

    @property
    def _scale(self) -> float:
        return getattr(self.sampling, "noise_scale", 1.0)

    def _mask_at(self, sigma: Tensor) -> Tensor | None:
        """Where to paint; core's own hook for it sees σ_ref."""
        function = self.options.get("denoise_mask_function")
        if self._mask is None or function is None:
            return self._mask
        extra = {"model": self.guider, "sigmas": self.sigmas}
        return function(sigma.expand(len(self._mask)), self._mask, extra_options=extra)


class Run:
    """One run of the sampler."""

    def __init__(self, sampler: PixelwiseSampler, model: Any, evaluate: Evaluator, disable_pbar: bool) -> None:
        self._sampler, self._model, self._evaluate, self._quiet = sampler, model, evaluate, disable_pbar
        self._before = 0  # steps of a synchronous run that came first

    def sample(self, x: Tensor, callback: Any) -> Tensor:
        """From the noised latent at the first σ to the last."""
        settings, evaluate, batch, size = self._sampler, self._evaluate, len(x), (x.shape[-2], x.shape[-1])
        model = self._model
        source = Source(model.regions, model.heat, size, model.network.patch, batch, settings.concave)
        if source.needs_pass:
            source.average(self._synchronous(x, callback))
        course = Course(evaluate.sigmas, model.regions.scaled(settings.scale), batch, size, settings.curve)
        fresh = comfy.k_diffusion.sampling.default_noise_sampler(x, seed=evaluate.seed) if settings.eta else None
        with retimed(model.retimer, evaluate.sigmas, model.text(evaluate.guider)) as timing:
            for index in trange(course.steps, disable=self._quiet):
                sigma = course.sigma.to(x.device)
                told = timing.told(course, float(evaluate.sigmas[index])).to(x)
                denoised = evaluate(x, index, Step(sigma, told, source.watching))
                if callback is not None:
                    callback(index + self._before, denoised, x, course.steps + self._before)
                denoised = timing.observed(x, denoised, sigma, told)
                following = course.advance(source.masks()).to(x.device)
                drawn = fresh(evaluate.sigmas[index], evaluate.sigmas[index + 1]) if fresh else None
                x = moved(evaluate.kind, x, denoised, sigma, following, settings.eta, drawn)
        source.report()
        return x

    def _synchronous(self, x: Tensor, callback: Any) -> Any:
        """An ordinary Euler run, the first half of the progress; yields after every step, with its attention seen."""
        sigmas = self._evaluate.sigmas
        self._before = len(sigmas) - 1
        for index in trange(self._before, disable=self._quiet):
            denoised = self._evaluate(x, index, Step(watch=True))
            if callback is not None:
                callback(index, denoised, x, 2 * self._before)
            yield index
            x = moved(
                self._evaluate.kind, x, denoised, sigmas[index].view(1, 1, 1, 1), sigmas[index + 1].view(1, 1, 1, 1)
            )


def moved(
    kind: Kind, x: Tensor, denoised: Tensor, sigma: Tensor, following: Tensor, eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """One step of every pixel from its σ to the following one."""
    if kind == "flow":
        return flow_step(x, (x - denoised) / sigma, sigma, following)
    return sigma_step(x, denoised, sigma, following, eta=eta, noise=noise)
