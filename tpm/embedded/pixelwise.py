"""Does pixel-wise denoising help an embedded pipeline: paired arms on held-out captions of several objects.

Every arm draws the same captions from the same noise: the synchronous sampler, with Euler and with other solvers; the
"concave" control (all pixels on the curve); pixel-wise denoising with regions from attention (dynamic, static) or
"true" ones: where the finished synchronous picture of the same noise has its objects, as the judge sees them. A policy
may lie on top of any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..hosts.diffusers.attention import captured
from ..hosts.diffusers.pixelwise import Pixelwise, pixelwise
from ..hosts.diffusers.regions import Phrases
from ..hosts.diffusers.studio import DiffusersStudio
from ..hosts.diffusers.tokens import item_tokens
from ..pixelwise.attention_maps import Items
from ..pixelwise.regions import from_attention, partition
from ..pixelwise.schedules import CURVES, SlowCurve
from ..pixelwise.timestep_rows import fine
from ..retiming.contract import Policy
from ..retiming.settings import Retiming
from ..retiming.solvers import EULER
from .codec import PATCH
from .evaluate import BATCH, Scores, evaluation_scenes, score_images
from .judge import JudgeNetwork, Sight
from .vocabulary import object_phrases, read
from .world import PIXELS
from .worlds import World

Kind = Literal["synchronous", "concave", "dynamic", "static", "true"]
ASYNCHRONOUS: tuple[Kind, ...] = ("concave", "dynamic", "static", "true")
STRENGTHS = (0.3, 0.5, 0.7)
THRESHOLDS = (1.0, 1.5)
SIZE = (PIXELS // PATCH, PIXELS // PATCH)  # (height, width) of the latent
TRANSFORMER_PATCH = 2
MARGIN = 4  # pixels by which true regions are wider than the objects


@dataclass(frozen=True)
class Setting:
    """How much all objects are slowed, along which curve, and where attention is theirs."""

    strength: float = 0.5
    curve: SlowCurve = "quadratic"
    threshold: float = 1.0  # of regions from attention, in means of the map


MIDDLE = Setting()


@dataclass(frozen=True)
class Arm:
    """One way of sampling: a row of the table. The strength and the curve are those of all objects."""

    kind: Kind
    steps: int
    strength: float = 0.0
    curve: SlowCurve = "quadratic"
    threshold: float = 1.0
    solver: str = EULER
    policy: str | None = None  # its name, where one lies on top

    @property
    def name(self) -> str:
        """The row's name."""
        plain = self.kind == "synchronous"
        parts = [self.kind, self.solver if self.solver != EULER else "", self.policy or ""]
        parts += [] if plain else [self.curve, f"k = {self.strength:g}"]
        parts += [f"threshold {self.threshold:g}"] if self.threshold != 1 else []
        return ", ".join(part for part in parts if part)

    @property
    def key(self) -> str:
        """The name with the steps."""
        return f"{self.steps} steps: {self.name}"


def core(steps: int, setting: Setting = MIDDLE) -> list[Arm]:
    """The synchronous arm, and every kind with one setting."""
    return [Arm("synchronous", steps), *(slowed(kind, steps, setting) for kind in ASYNCHRONOUS)]


def slowed(kind: Kind, steps: int, setting: Setting) -> Arm:
    """The arm of a kind with a setting; only regions from attention have a threshold."""
    threshold = setting.threshold if kind in ("dynamic", "static") else 1.0
    return Arm(kind, steps, setting.strength, setting.curve, threshold)


def sweep(steps: int, setting: Setting = MIDDLE) -> list[Arm]:
    """The core; then every other k, curve and threshold beside the setting, for the kinds that have it."""
    others = [replace(setting, strength=k) for k in STRENGTHS if k != setting.strength]
    others += [replace(setting, curve=curve) for curve in CURVES if curve != setting.curve]
    kinds: tuple[Kind, ...] = ("concave", "dynamic", "true")
    thresholds = [replace(setting, threshold=value) for value in THRESHOLDS if value != setting.threshold]
    return [
        *core(steps, setting),
        *(slowed(kind, steps, other) for other, kind in product(others, kinds)),
        *(slowed("dynamic", steps, other) for other in thresholds),
    ]


def with_policy(arms: Sequence[Arm], policy: str) -> list[Arm]:
    """The arms with a policy on top, but for static regions."""
    return [replace(arm, policy=policy) for arm in arms if arm.kind != "static" and arm.solver == EULER]


def measured_captions(world: World, objects: int, count: int, seed: int = 1234) -> list[str]:
    """Held-out captions of so many objects, of which no two are called the same."""
    drawn = evaluation_scenes(2 * count, seed, world=world, objects=objects)
    captions = [world.canonical_caption(scene) for scene in drawn]
    return [caption for caption in captions if len(object_phrases(caption)) == objects][:count]


class Bench:
    """Draws and judges the arms of one list of captions, all with the same number of objects.

    The synchronous arm of as many steps gives the static and the true regions. studios: by solver, Euler's among them.
    """

    def __init__(
        self,
        studios: Mapping[str, DiffusersStudio],
        judge: JudgeNetwork,
        prompts: Sequence[str],
        guidance: float,
        policies: Mapping[str, tuple[Policy, Retiming]] | None = None,
    ) -> None:
        self._studios, self._judge, self._guidance = studios, judge, guidance
        self._prompts, self._policies = list(prompts), policies or {}
        self.objects = len(read(self._prompts[0]).objects)  # in each caption
        self._tokens = [self._tokens_of(prompt) for prompt in self._prompts]
        self._static: dict[int, Tensor] = {}  # maps (n, J, h, w) by the steps of the run
        self._true: dict[int, Tensor] = {}  # regions, bool (n, J, h, w)

    @property
    def captions(self) -> int:
        """How many captions each arm draws."""
        return len(self._prompts)

    def score(self, arm: Arm) -> Scores:
        """Judge one image a caption, values (n,)."""
        return score_images(self._judge, self.draw(arm), self._prompts)

    def maps(self, steps: int) -> Tensor:
        """The attention to each object, (n, J, h, w): the mean over a synchronous run."""
        self._prepare(steps)
        return self._static[steps]

    def true_regions(self, steps: int) -> Tensor:
        """Where the synchronous pictures have each object, bool (n, J, h, w); none for one that they lack."""
        self._prepare(steps)
        return self._true[steps]

    def overlap(self, steps: int, threshold: float) -> float:
        """Mean intersection over union of the static regions with the true ones, of the objects that are there."""
        static = from_attention(self.maps(steps), [0.5] * self.objects, SIZE, threshold)
        return overlap(static, self.true_regions(steps))

    def draw(self, arm: Arm) -> Tensor:
        """(n, 3, H, W). The noise of a caption depends on its position alone: arms are paired."""
        studio, images, maps = self._studios[arm.solver], [], []
        policy, retiming = self._policies[arm.policy] if arm.policy and arm.kind == "synchronous" else (None, None)
        plain = arm == Arm("synchronous", arm.steps)
        for part in tqdm(list(parts(len(self._prompts))), desc=arm.name, leave=False):
            prompts, seeds = self._prompts[part], list(range(part.start, part.stop))
            with self._context(arm, part) as capture:
                done = studio.render(prompts, seeds, policy, retiming, steps=arm.steps, guidance=self._guidance)
            images.append(done.images)
            maps += [capture.maps] if plain else []
        if plain:
            self._static[arm.steps] = torch.cat(maps)
            self._true[arm.steps] = regions_of(self._judge.look(torch.cat(images)), self._prompts)
        return torch.cat(images)

    def _prepare(self, steps: int) -> None:
        if steps not in self._static:
            self.draw(Arm("synchronous", steps))

    def _tokens_of(self, prompt: str) -> Items:
        return item_tokens(self._studios[EULER].pipe, prompt, object_phrases(prompt), t5_length=0)

    def _context(self, arm: Arm, part: slice) -> AbstractContextManager[Any]:
        pipe = self._studios[arm.solver].pipe
        if arm == Arm("synchronous", arm.steps):
            return captured(pipe, self._tokens[part])
        if arm.kind == "synchronous" or arm.strength == 0:
            return nullcontext()
        strengths = [arm.strength] * self.objects
        options = Pixelwise(arm.curve, concave=arm.kind == "concave")
        policy, retiming = self._policies[arm.policy] if arm.policy else (None, None)
        regions = self._regions(arm, part, strengths)
        return pixelwise(pipe, regions, strengths, options, policy=policy, retiming=retiming)

    def _regions(self, arm: Arm, part: slice, strengths: list[float]) -> Tensor | Phrases:
        if arm.kind == "dynamic":
            return Phrases(self._tokens[part], arm.threshold)
        if arm.kind == "static":
            return from_attention(self.maps(arm.steps)[part], strengths, SIZE, arm.threshold)
        return self.true_regions(arm.steps)[part]


def parts(count: int) -> Iterator[slice]:
    """The batches."""
    for start in range(0, count, BATCH):
        yield slice(start, min(start + BATCH, count))


def regions_of(sight: Sight, prompts: Sequence[str]) -> Tensor:
    """Where pictures show each object of their captions, bool (n, J, h, w) on the latent, whole patches."""
    seen = torch.stack([sight.regions(row, read(prompt)) for row, prompt in enumerate(prompts)])
    wide = F.max_pool2d(seen, 2 * MARGIN + 1, 1, MARGIN)
    grid = (SIZE[0] // TRANSFORMER_PATCH, SIZE[1] // TRANSFORMER_PATCH)
    share = F.interpolate(wide, size=grid, mode="area")
    return fine(partition(share >= 0.5, [0.5] * share.shape[1]), TRANSFORMER_PATCH)


def overlap(regions: Tensor, true: Tensor) -> float:
    """Mean intersection over union of bool (n, J, h, w), over the objects that are truly there."""
    shared, either = (regions & true).sum((2, 3)), (regions | true).sum((2, 3))
    there = true.any(3).any(2)
    return float((shared / either.clamp_min(1))[there].mean())
