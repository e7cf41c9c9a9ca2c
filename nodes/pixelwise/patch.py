"""The model patch: a network that can be told a map of timesteps, on a clone whose weights and names are the same.

- object patches on bound functions of the network or of `process_timestep` (`networks`), which do nothing without a
  map;
- APPLY_MODEL: hands the map of the sampler's step to the network, and turns what the host made of its output at the
  scalar σ into the denoised latent of each pixel's own σ, so that guidance and post-CFG functions see the truth;
- OUTER_SAMPLE: refuses samplers that have one σ for all pixels.

The scalar σ stays the background's: start and end percents, ControlNet and previews see that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_sampling
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...tpm.errors import HostError
from ...tpm.pixelwise.attention_maps import AttentionWatch
from ...tpm.pixelwise.parametrization import denoised, presented
from ...tpm.pixelwise.requests import Regions
from ...tpm.pixelwise.run import Deviating
from ...tpm.pixelwise.timestep_rows import Reading, TextTime, fitted, for_call
from ...tpm.policies import Policy, TextCondition
from ...tpm.retiming.settings import Retiming
from ..retiming.families import check_generates
from ..retiming.fit import check_fits, seen_in, solver_of
from ..retiming.patch import KEY as ASYNCHRONOUS
from .layout import Layout
from .networks.base import NETWORK, Call
from .networks.families import pixelwise_network
from .sampler import PixelwiseSampler
from .step import KEY, STEP, Step, kind_of, timesteps

OVERRIDE = "optimized_attention_override"


def attach(
    model: Any,
    regions: Regions,
    text: TextTime = "mean",
    reading: Reading = "corner",
    policy: Policy | None = None,
    retiming: Retiming | None = None,
) -> Any:
    """A clone of MODEL for Pixel-wise Asynchronous Sampler; the original is untouched.

    text: the timestep of the text stream. reading: how the coarser layers of a UNet read the map. policy: decides a
    deviation on top of the map. Raises HostError for a model that cannot take a map, PolicyError for another family's
    policy.
    """
    _check_model(model, policy)
    patched = model.clone()
    pixelwise = PixelwiseModel(patched, regions, text, reading, Deviating(policy, retiming) if policy else None)
    pixelwise.patch_network(patched)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, pixelwise.apply_model)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, pixelwise.outer_sample)
    patched.model_options.setdefault("transformer_options", {})[KEY] = pixelwise
    return patched


class PixelwiseModel:
    """What a patched model is told. Node outputs are cached, so it serves many runs, and holds nothing of any."""

    def __init__(
        self, patched: Any, regions: Regions, text: TextTime, reading: Reading, deviating: Deviating | None
    ) -> None:
        self.regions, self.deviating = regions, deviating
        self.network = pixelwise_network(patched.get_model_object(NETWORK), text, reading)
        if regions.tokens and not self.network.watches:
            raise HostError(
                f"Draw the regions of a video (Region from Mask): attention is not watched in"
                f" {type(patched.model).__name__}, so that phrases of the prompt find none."
            )

    def patch_network(self, patched: Any) -> None:
        """Put the stand-ins in place, over those of other patches."""
        for path, function in self.network.patches(patched.get_model_object).items():
            patched.add_object_patch(path, function)
        if hasattr(self.network, "around"):
            patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, self.network.around)
        if not self.regions.tokens:
            return
        if hasattr(self.network, "watched"):
            patched.set_model_attn2_patch(self.network.watched)
        if hasattr(self.network, "attention"):
            options = patched.model_options.setdefault("transformer_options", {})
            options[OVERRIDE] = self._chained(options.get(OVERRIDE))

    def outer_sample(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Refuse a sampler that does not know of the map; a run that ends is recorded under what it put out."""
        if not isinstance(sampler, PixelwiseSampler):
            raise HostError(
                f"This model has regions with their own σ, which {solver_of(sampler)} cannot run: it keeps one σ (or,"
                " as multistep samplers do, a history) for all pixels. Use SamplerCustom or SamplerCustomAdvanced with"
                " Pixel-wise Asynchronous Sampler, or take MODEL from before Apply Pixel-wise Asynchronous Denoising."
            )
        layout = Layout.of(noise, kwargs.get("latent_shapes"))
        run = sampler.recording(layout)
        samples: Tensor = executor(noise, latent, run, *args, **kwargs)
        if run.seen is not None:
            outputs = [samples]
            if run.denoised is not None:
                outputs.insert(0, executor.class_obj.model_patcher.model.process_latent_out(run.denoised.cpu()))
            self.regions.seen.record(run.seen, [layout.picture(output) for output in outputs])
        return samples

    def apply_model(
        self, executor: Any, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None, control: Any = None,
        transformer_options: dict[str, Any] | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """One call of the network for n prompts: x (n·B, C, …), t (n·B,) the scalar σ → the denoised latents."""
        options = transformer_options or {}
        step: Step | None = options.get(STEP)
        if step is None:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if kwargs.get("ref_latents") is not None:
            raise HostError("Reference images (Flux Kontext, Flux.2) have no pixel-wise timesteps; remove them.")
        self._check_network(executor.class_obj.diffusion_model)
        watch = self._expecting(step, options, x)
        if step.sigma is None or step.told is None:
            with self.network.told(Call(watch=watch)):
                return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        sampling = executor.class_obj.model_sampling
        sigma, told = (windowed(each, options) for each in (step.sigma, step.told))
        sigma, ref = fitted(sigma, x), t.float().reshape(-1, *[1] * (x.ndim - 1))
        told = for_call(told.to(x.device, torch.float32), len(x))
        background = torch.as_tensor(t[0] if step.background is None else step.background).to(told).reshape(-1)
        call = Call(timesteps(sampling, told), sampling.timestep(background).float(), watch)
        kind = kind_of(sampling)
        with self.network.told(call):
            shown = presented(kind, x, sigma, ref)
            d_ref = executor(shown, t, c_concat, c_crossattn, control, options, **kwargs)
        return denoised(kind, x, d_ref, sigma, ref)

    def text(self, guider: Any) -> TextCondition | None:
        """The prompt, for a policy that reads it; only the first where several are combined."""
        if self.deviating is None or not self.deviating.retimer.policy.needs_state:
            return None
        positive = guider.conds.get("positive") or next(iter(guider.conds.values()))
        return TextCondition(positive[0].get("cross_attn"), positive[0].get("pooled_output"))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _expecting(self, step: Step, options: dict[str, Any], x: Tensor) -> AttentionWatch | None:
        """The watch over this call; None where no conditioning of it counts that was not seen in this step already."""
        if step.watch is None:
            return None
        names, grid = options["uuids"], self.network.attention_grid((x.shape[-2], x.shape[-1]))
        return step.watch if step.watch.expect(names, len(x) // len(names), grid) else None

    def _check_network(self, network: Any) -> None:
        """Raise HostError where the host runs a copy of the model, whose layers are others than those patched."""
        if getattr(network, "_orig_mod", network) is not self.network.network:
            raise HostError(
                "ComfyUI runs a copy of this model (for LoRA hooks on a conditioning, or several devices), which has no"
                " pixel-wise timesteps; load the LoRA on the model instead, and use one device."
            )

    def _chained(self, before: Callable[..., Any] | None) -> Callable[..., Any]:
        """The host's attention override that watches, and then does what was there."""
        attention: Any = self.network

        def override(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            inner = function if before is None else lambda *a, **k: before(function, *a, **k)
            return attention.attention(inner, *args, **kwargs)

        return override


def windowed(field: Tensor, options: dict[str, Any]) -> Tensor:
    """A map of the whole latent, for the part of it that a context window of the host shows to the network."""
    window = options.get("context_window")
    part: Tensor = field if window is None else window.get_tensor(field)
    return part


def _check_model(model: Any, policy: Policy | None) -> None:
    check_generates(model)
    sampling = model.get_model_object("model_sampling")
    kind_of(sampling)
    if model.get_wrappers(WrappersMP.APPLY_MODEL, KEY):
        raise HostError("This model has regions already; give one Apply Pixel-wise Asynchronous Denoising all of them.")
    if model.get_wrappers(WrappersMP.PREDICT_NOISE, ASYNCHRONOUS):
        raise HostError(
            "This model is asynchronous already. To have both, connect the policy to Apply Pixel-wise Asynchronous"
            " Denoising itself, and MODEL from before Apply Asynchronous Timesteps."
        )
    if policy is None:
        return
    check_fits(policy, seen_in(model))
    if not isinstance(sampling, comfy.model_sampling.CONST):
        raise HostError(
            "A policy goes on top of regions for flow-matching models only (SD3, SD3.5, Flux, and the videos);"
            " disconnect it here."
        )
