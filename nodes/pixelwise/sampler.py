"""The sampler: first-order steps in which every pixel goes from its own σ to its own next one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import copy
from functools import partial
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.samplers
import torch
from comfy.model_base import BaseModel
from torch import Tensor
from tqdm.auto import trange

from ...tpm.errors import HostError
from ...tpm.pixelwise.attention_maps import AttentionWatch
from ...tpm.pixelwise.errors import ScheduleError
from ...tpm.pixelwise.parametrization import Kind, noised
from ...tpm.pixelwise.requests import SeenRun
from ...tpm.pixelwise.run import (
    AttendedRegions,
    FixedRegions,
    PixelwiseRun,
    RegionSource,
    control,
    scaled,
    static_regions,
)
from ...tpm.pixelwise.schedules import SigmaLevels, SlowCurve
from ...tpm.pixelwise.timestep_rows import check_divisible
from ...tpm.pixelwise.updates import flow_step, sigma_step
from .layout import Layout
from .step import KEY, STEP, Step, kind_of
from .texts import text_places

log = logging.getLogger("asyncdiff")


class PixelwiseSampler(comfy.samplers.Sampler):
    """Euler (η = 0) or ancestral Euler (η = 1) per pixel, on the host's σ as the background's schedule.

    concave: the control, all pixels on the curve of the strongest region. scale: multiplies every strength k; 0 is the
    host's own sampler, to the bit, unless a policy decides a deviation. seen, denoised: the regions and the last
    denoised latent of the run of a `recording` copy; None where it has not ended. The control and scale 0 look at no
    regions, and the latter is the host's, which tells no denoised latent.
    """

    seen: SeenRun | None = None
    denoised: Tensor | None = None
    layout: Layout | None = None  # of the latent of that run

    def __init__(self, curve: SlowCurve, concave: bool = False, scale: float = 1.0, eta: float = 0.0) -> None:
        self.curve, self.concave, self.scale, self.eta = curve, concave, scale, eta

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        """Run it, as the host asks. Raises HostError, RegionError or ScheduleError for what cannot run."""
        model = model_of(extra_args)
        sampling = model_wrap.inner_model.model_sampling
        layout = self.layout or Layout.of(noise, None)
        self._check(model, model_wrap, kind_of(sampling), layout)
        if self.scale == 0 and model.deviating is None:
            self.seen = SeenRun()
            return self._host().sample(
                model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
            )
        start = sampling.noise_scaling(sigmas[0], noise, latent_image, self.max_denoise(model_wrap, sigmas))
        evaluate = Evaluator(model_wrap, sigmas, extra_args, noise, latent_image, denoise_mask)
        run = Sampling(self, model, evaluate, layout, callback, disable_pbar)
        samples = sampling.inverse_noise_scaling(sigmas[-1], run.sample(start))
        self.seen, self.denoised = run.seen, run.denoised
        return samples

    def recording(self, layout: Layout) -> PixelwiseSampler:
        """A copy for one run of a latent, which holds what that run saw when it has ended."""
        run = copy(self)
        run.layout = layout
        return run

    def _host(self) -> Any:
        """What this sampler is when nothing is slowed down."""
        if self.eta == 0:
            return comfy.samplers.ksampler("euler")
        return comfy.samplers.ksampler("euler_ancestral", {"eta": self.eta})

    def _check(self, model: Any, guider: Any, kind: Kind, layout: Layout) -> None:
        if kind == "flow" and self.eta > 0:
            raise ScheduleError("Pixel-wise denoising of flow models is deterministic; set η to 0.")
        makes, dimensions = model.network.makes, {2: "images", 3: "videos"}
        if dimensions.get(len(layout.size)) != makes:
            raise HostError(f"This model's pixels are those of {makes}, not of a latent of {layout.shapes[0]}.")
        check_divisible(layout.size, model.network.unit)
        conds = [cond for conds in guider.conds.values() for cond in conds]
        if any("area" in cond for cond in conds):
            raise HostError(
                "Pixel-wise denoising cannot run a conditioning that is cropped to an area; use Conditioning (Set Mask)"
                " with the default bounds, or remove the area."
            )
        windows = guider.model_options.get("context_handler")
        if windows is not None and (layout.packed or getattr(windows, "latent_retain_index_list", None)):
            raise HostError(
                "Context windows over video and sound, or with a frame that every window retains, have no pixel-wise"
                " timesteps; use other windows or none."
            )
        if any(cond.get("keyframe_idxs") is not None for cond in conds) and model.regions.each_frame:
            raise HostError(
                "Guides (LTXV Add Guide) add frames to the latent, which masks for each frame do not know of; draw one"
                " mask for all frames."
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
    """Calls the guider at σ_ref = sigmas[i], with a step's maps in its options.

    What is not painted is kept at each pixel's own σ, or, in a family that keeps it clean (image to video), clean.
    """

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
        """What the guider makes of the latent as it is shown, in step `index`."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        transformer = {**self.options.get("transformer_options", {}), STEP: step}
        options = {**self.options, "transformer_options": transformer}
        sigma = self.sigmas[index] * x.new_ones(len(x))
        denoised: Tensor = self.guider(x, sigma, model_options=options, seed=self.seed)
        return denoised

    def shown(self, x: Tensor, mask: Tensor | None, index: int, step: Step) -> Tensor:
        """The latent of step `index` as the guider is to see it. mask: as `mask_at` says."""
        if mask is None or self._latent is None:
            return x
        ref = self.sigmas[index]
        kept = self._kept(x, self._latent, mask, ref, ref if step.sigma is None else step.sigma)
        return x * mask + kept * (1 - mask)

    def pasted(self, denoised: Tensor, mask: Tensor | None) -> Tensor:
        """The denoised latent with what is kept in its place."""
        if mask is None or self._latent is None:
            return denoised
        return denoised * mask + self._latent * (1 - mask)

    def _kept(self, x: Tensor, latent: Tensor, mask: Tensor, ref: Tensor, sigma: Tensor) -> Tensor:
        """What the latent is where nothing is painted."""
        model = self.guider.inner_model
        if type(model).scale_latent_inpaint is BaseModel.scale_latent_inpaint:
            return noised(self.kind, latent, self.noise, sigma, getattr(self.sampling, "noise_scale", 1.0))
        kept: Tensor = model.scale_latent_inpaint(
            x=x, sigma=ref * x.new_ones(len(x)), noise=self.noise, latent_image=latent, denoise_mask=mask
        )
        return kept

    def mask_at(self, index: int) -> Tensor | None:
        """Where to paint in step `index`; core's own hook for it sees σ_ref."""
        function = self.options.get("denoise_mask_function")
        if self._mask is None or function is None:
            return self._mask
        extra = {"model": self.guider, "sigmas": self.sigmas}
        painted: Tensor = function(self.sigmas[index].expand(len(self._mask)), self._mask, extra_options=extra)
        return painted


class Sampling:
    """One run of the sampler: asks the run what to tell the network, and moves the latent as it says."""

    def __init__(
        self, sampler: PixelwiseSampler, model: Any, evaluate: Evaluator, layout: Layout, callback: Any, quiet: bool
    ) -> None:
        self._sampler, self._model, self._evaluate, self._layout = sampler, model, evaluate, layout
        self._callback, self._quiet = callback, quiet
        self._before = 0  # steps of a synchronous run that came first
        self.seen = SeenRun()
        self.denoised: Tensor | None = None  # the denoised latent of the latest evaluation

    def sample(self, x: Tensor) -> Tensor:
        """From the noised latent at the first σ to the last."""
        settings, sigmas, deviating = self._sampler, self._evaluate.sigmas, self._model.deviating
        source, watch = self._regions(x)
        if deviating is not None:
            deviating.begin(sigmas, self._model.text(self._evaluate.guider))
        try:
            strengths = self._model.regions.scaled(settings.scale)
            levels = SigmaLevels(sigmas, settings.curve)
            run = PixelwiseRun(levels, source, strengths, deviating, None if settings.concave else self.seen.add)
            x = self._walk(run, x, watch)
        finally:
            if deviating is not None:
                deviating.end()
        self._report()
        return x

    def _walk(self, run: PixelwiseRun, x: Tensor, watch: AttentionWatch | None) -> Tensor:
        """All steps of the run."""
        evaluate, eta, laid = self._evaluate, self._sampler.eta, self._layout.laid
        sigmas = evaluate.sigmas
        fresh = comfy.k_diffusion.sampling.default_noise_sampler(x, seed=evaluate.seed) if eta else None
        for index in trange(run.steps, disable=self._quiet):
            told = run.condition()
            sigma = laid(told.level.to(x.device), sigmas[index])
            step = Step(sigma, told.told.to(x), told.background, watch)
            mask = evaluate.mask_at(index)
            shown = evaluate.shown(x, mask, index, step)
            denoised = evaluate(shown, index, step)
            velocity = partial(velocity_of, shown, denoised, sigma)
            move = run.observe(shown, velocity)
            if isinstance(move.omega, Tensor):
                denoised = shown - sigma * scaled(velocity(), laid(move.omega, move.background))
            elif move.omega != 1.0:
                denoised = shown - sigma * scaled(velocity(), move.omega)
            denoised = self._tell(x, evaluate.pasted(denoised, mask), self._before + index, self._before + run.steps)
            drawn = fresh(sigmas[index], sigmas[index + 1]) if fresh else None
            following = laid(move.levels[1].to(x.device), sigmas[index + 1])
            x = moved(evaluate.kind, x, denoised, sigma, following, eta, drawn)
        return x

    def _tell(self, x: Tensor, denoised: Tensor, done: int, total: int) -> Tensor:
        """Show the host the denoised latent of an evaluation, and keep it."""
        self.denoised = denoised
        if self._callback is not None:
            self._callback(done, denoised, x, total)
        return denoised

    def _regions(self, x: Tensor) -> tuple[RegionSource, AttentionWatch | None]:
        """Where the run's regions come from, and what watches its attention."""
        regions, size, patch = self._model.regions, self._layout.size, self._model.network.patch
        if self._sampler.concave:
            first = torch.zeros(1, len(regions.items), *size, dtype=torch.bool)
            return control(FixedRegions(first), regions.strengths), None
        if not regions.tokens:
            return FixedRegions(regions.drawn(size, patch, len(x))), None
        texts = text_places(regions, self._evaluate.guider, self._evaluate.sigmas[:-1].tolist())
        watch = AttentionWatch(regions.tokens, texts)
        if regions.static:
            return static_regions(regions, list(self._synchronous(x, watch)), size), None
        first = regions.unattended(size).expand(len(x), -1, -1, -1)
        return AttendedRegions(first, watch.take, lambda maps: regions.attended(maps, size)), watch

    def _synchronous(self, x: Tensor, watch: AttentionWatch) -> Iterator[Tensor]:
        """An ordinary Euler run, the first half of the progress; yields the attention of every step."""
        evaluate, sigmas = self._evaluate, self._evaluate.sigmas
        steps = len(sigmas) - 1
        for index in trange(steps, disable=self._quiet):
            mask, step = evaluate.mask_at(index), Step(watch=watch)
            denoised = evaluate.pasted(evaluate(evaluate.shown(x, mask, index, step), index, step), mask)
            self._tell(x, denoised, index, 2 * steps)
            yield watch.take().cpu()
            sigma, following = (sigmas[place].view(1, 1, 1, 1) for place in (index, index + 1))
            x = moved(self._evaluate.kind, x, denoised, sigma, following)
        self._before = steps

    def _report(self) -> None:
        """Say which phrases never had a pixel."""
        names = self._model.regions.names
        for j in [] if self._sampler.concave else self.seen.never(len(names)):
            log.warning("The phrase %r got no region at any step.", names[j])


def velocity_of(x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
    """The velocity of a flow model at each pixel's own σ."""
    return (x - denoised) / sigma


def moved(
    kind: Kind, x: Tensor, denoised: Tensor, sigma: Tensor, following: Tensor, eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """One step of every pixel from its σ to the following one."""
    if kind == "flow":
        return flow_step(x, (x - denoised) / sigma, sigma, following)
    return sigma_step(x, denoised, sigma, following, eta=eta, noise=noise)
