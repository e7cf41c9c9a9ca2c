"""One prompt drawn three times from the same noise: synchronous, concave, and pixel-wise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...hosts.diffusers.attention import captured
from ...hosts.diffusers.pixelwise import Pixelwise, pixelwise
from ...hosts.diffusers.regions import Phrases, RegionSpec
from ...pixelwise.regions import from_attention

if TYPE_CHECKING:
    from ...policies import Policy
    from ...retiming.settings import Retiming
    from .items import Items

KINDS = ("base", "base2", "tgt")
"""AsynDM's names: the synchronous sampler, the concave control, pixel-wise denoising."""


@dataclass(frozen=True)
class Drawing:
    """What all three have in common."""

    steps: int
    cfg: float
    size: tuple[int, int] | None = None
    negative: str = ""
    eta: float | None = None  # DDIM's η; None for flow models
    options: Pixelwise = field(default_factory=Pixelwise)
    static: bool = False
    threshold: float = 1.0
    policy: Policy | None = None  # on top of the pixel-wise map
    retiming: Retiming | None = None


@dataclass(frozen=True)
class Trio:
    """What was drawn for one prompt and n seeds."""

    images: dict[str, Tensor]  # by kind, (n, 3, H, W) in [0, 1]
    masks: Tensor  # bool (n, J, h, w): the regions at the last step


def draw_trio(
    studio: Any,
    prompt: str,
    seeds: Sequence[int],
    items: Items,
    drawing: Drawing,
    masks: Sequence[Tensor] = (),
    progress: Callable[..., None] | None = None,
) -> Trio:
    """Draw all three. `masks`: drawn regions in place of the prompt's attention."""
    with watched(studio, items, drawing, masks) as capture:
        images = {"base": render(studio, prompt, seeds, drawing, progress)}
    regions = regions_of(capture, items, drawing, masks)
    with pixelwise(studio.pipe, regions, items.strengths, replace(drawing.options, concave=True), items.names):
        images["base2"] = render(studio, prompt, seeds, drawing, progress)
    policy, retiming = drawing.policy, drawing.retiming
    with pixelwise(
        studio.pipe, regions, items.strengths, drawing.options, items.names, policy=policy, retiming=retiming
    ) as run:
        images["tgt"] = render(studio, prompt, seeds, drawing, progress)
    assert run.masks is not None
    return Trio(images, run.masks.expand(len(seeds), -1, -1, -1))


def watched(studio: Any, items: Items, drawing: Drawing, masks: Sequence[Tensor]) -> AbstractContextManager[Any]:
    """The attention of the synchronous run, where static masks are made of it."""
    return captured(studio.pipe, items.tokens) if drawing.static and not masks else nullcontext()


def regions_of(capture: Any, items: Items, drawing: Drawing, masks: Sequence[Tensor]) -> RegionSpec:
    """Drawn masks, static masks of the attention seen, or phrases to follow."""
    if masks:
        return list(masks)
    if capture is None:
        return Phrases(items.tokens, drawing.threshold)
    return from_attention(capture.maps.cpu(), items.strengths, capture.latent, drawing.threshold)


def render(
    studio: Any, prompt: str, seeds: Sequence[int], drawing: Drawing, progress: Callable[..., None] | None
) -> Tensor:
    """The images of one run."""
    extra = {} if drawing.eta is None else {"eta": drawing.eta}
    done = studio.render(
        [prompt] * len(seeds),
        list(seeds),
        steps=drawing.steps,
        guidance=drawing.cfg,
        size=drawing.size,
        negative=drawing.negative,
        progress=progress,
        **extra,
    )
    images: Tensor = done.images
    return images


def regions_picture(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Regions (J, h, w) as a picture (3, H, W): each in its colour, the background grey."""
    from ...drawing.theme import ramp

    colours = torch.tensor(ramp(max(len(masks), 2))[: len(masks)]) / 255
    picture = torch.full((3, *masks.shape[1:]), 0.92)
    for mask, colour in zip(masks, colours, strict=True):
        picture = torch.where(mask, colour[:, None, None], picture)
    return torch.nn.functional.interpolate(picture[None], size=size, mode="nearest")[0]
