"""What the model families of ComfyUI do with their timestep, beyond being told it, and what makes t* right for them.

Almost every network only embeds the timestep. What is listed here does more, or is no model to sample with. A family
that is not listed gets the plain case: it is told the timestep of t*, and nothing else changes.

Whatever the network does, one thing must hold: a prediction that does not depend on the timestep gives the synchronous
result. `tests/host/retiming/test_families.py` checks it for every family that can be built small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import comfy.model_sampling as sampling

from ...tpm.errors import HostError
from ...tpm.retiming.clock import FLOW, Angle, Clock, Cosine, Ratio, Table

Conversion = Literal["plain", "x0", "inside", "mean flow"]


@dataclass(frozen=True)
class Family:
    """How t* is told. See `CONVERSIONS` for what each word means."""

    conversion: Conversion = "plain"
    note: str = ""  # for the trace of every run
    least: float = 0.0  # the lowest σ that the network divides by


CONVERSIONS: dict[Conversion, str] = {
    "plain": "told the timestep of t*",
    "x0": "predicts the image and divides by the timestep it is told: its output is scaled by t*/σ",
    "inside": "also scales by the timestep outside of its network: only the network is told t*",
    "mean flow": "is told the end of the step as well: t* stays between the neighbouring σ",
}

_ROUNDED = "This model rounds its timestep to 16 bits: deviations below some {} of the range from 0 to 1 are lost."
_MEAN_FLOW = "This model is told where the step ends as well: t* is kept between the neighbouring σ."
_PLAIN = Family()
_ROUNDING = Family(note=_ROUNDED.format("0.004"))


def _radiance(network: Any) -> Family:
    return Family("x0") if hasattr(network, "__x0__") else _PLAIN


def _mean_flow(network: Any) -> Family:
    return Family("mean flow", _MEAN_FLOW) if getattr(network, "time_r_in", None) is not None else _PLAIN


FAMILIES: dict[str, Family | Callable[[Any], Family]] = {
    "ChromaRadiance": _radiance,  # ldm/chroma_radiance: (x − x0)/t
    "HiDreamO1": Family("x0", least=1e-3),  # ldm/hidream_o1: (x − x0)/max(σ, .001)
    "ZImagePixelSpace": Family("inside"),  # ldm/lumina: divides by t around its network
    "MiniMaxH3": Family("inside"),  # ldm/minimax: scales its audio by t around its network
    "HunyuanImage21": _mean_flow,  # ldm/hunyuan_video: r from sample_sigmas
    "HunyuanVideo15": _mean_flow,
    "HunyuanVideo15_SR_Distilled": _mean_flow,
    "MageFlow": _ROUNDING,  # model_base: timestep in bfloat16
    "Lens": _ROUNDING,  # ldm/lens: timestep in the compute dtype
    "Trellis2": _ROUNDING,  # ldm/trellis2: the same
}
"""By the name of the class in `comfy.model_base`; a function where the network of one class decides."""

REFUSED = {
    "RT_DETR_v4": "RT-DETR finds objects in a picture",
    "SAM3": "SAM 3 finds and outlines objects in a picture",
    "DepthAnything3": "Depth Anything 3 measures the depth of a picture",
    "Lotus": "Lotus turns a picture into a map in one step at a fixed timestep",
}
"""Classes of `comfy.model_base` that generate nothing, and what they do instead."""


BACKBONES = {
    "SD3": "sd3",
    "Flux": "flux",
    "Flux2": "flux2",
    "QwenImage": "qwen-image",
    "ZImage": "z-image",
    "SDXL": "sdxl",
    "SD15": "sd1",
    "SD20": "sd2",
}
"""Families that diffusers has as well, by ComfyUI's name of the class: one word for both in policy files."""


def backbone_of(patcher: Any) -> str:
    """The word for the family of a MODEL in policy files; for a family without one the host's own name of it."""
    built, detected = (type(part).__name__ for part in (patcher.model, getattr(patcher.model, "model_config", None)))
    own = detected if built in ("BaseModel", "Lumina2") else built  # one class builds several of these
    return BACKBONES.get(own, own)


def family_of(model: Any) -> Family:
    """The family of a `comfy.model_base` model."""
    found = FAMILIES.get(type(model).__name__, _PLAIN)
    return found if isinstance(found, Family) else found(model.diffusion_model)


def check_generates(patcher: Any) -> None:
    """Raise HostError for a MODEL that has no run to retime, with the reason."""
    name = type(patcher.model).__name__
    if name in REFUSED:
        raise HostError(
            f"{REFUSED[name]}: it does not sample, so there is no timestep to change. Connect a model that makes"
            " pictures, video or sound."
        )
    _clock_maker(patcher.get_model_object("model_sampling"), name)


def clock_of(model_sampling: Any) -> Clock:
    """The clock of a run, from what the host samples with: nodes can give any model another one.

    Raises HostError where σ stands for no time.
    """
    return _clock_maker(model_sampling, "This model")(model_sampling)


def _clock_maker(model_sampling: Any, name: str) -> Callable[[Any], Clock]:
    """What makes the clock; a table is read only where a run needs it. Raises HostError where there is none."""
    one_step = isinstance(model_sampling, sampling.IMG_TO_IMG)  # picture to picture: its σ is a label
    for kind, make in () if one_step else _CLOCKS:
        if isinstance(model_sampling, kind):
            return make
    kinds = " and ".join(kind.__name__ for kind in type(model_sampling).__bases__)
    raise HostError(
        f"{name} is sampled by {kinds}, where σ is no time that a step could be measured in; sample it without this"
        " node."
    )


def _table(model_sampling: Any) -> Clock:
    """The trained levels, and the timesteps of the first and the last: LCM's 50 levels are told as 19 to 999."""
    levels = model_sampling.sigmas
    first, last = model_sampling.timestep(levels[[0, -1]]).tolist()
    return Table(levels, (float(first), float(last)))


_CLOCKS: tuple[tuple[type, Callable[[Any], Clock]], ...] = (
    (sampling.StableCascadeSampling, lambda _: Cosine()),
    (sampling.ModelSamplingContinuousV, lambda _: Angle()),
    (sampling.ModelSamplingContinuousEDM, lambda _: Ratio()),
    (sampling.ModelSamplingDiscreteEDM, lambda _: Ratio()),
    (sampling.ModelSamplingDiscrete, _table),
    (sampling.CONST, lambda _: FLOW),
)
"""In this order: some of these classes are subclasses of a later one, and FlowRVS has CONST over discrete timesteps."""
