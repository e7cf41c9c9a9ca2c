"""Does pixel-wise denoising help the embedded pipeline: paired arms on held-out captions of two objects.

Every arm draws the same captions from the same noise: the synchronous sampler, the "concave" control (all pixels on
the curve), and pixel-wise denoising with regions from attention (dynamic, static) or from the true picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..drawing.chart import Plot, Series, line_chart
from ..drawing.theme import NEUTRAL, RAMP
from ..errors import AsyncDiffError
from ..files import read_json, write_json
from ..hosts.diffusers.attention import captured
from ..hosts.diffusers.pixelwise import Pixelwise, pixelwise
from ..hosts.diffusers.regions import Phrases
from ..hosts.diffusers.studio import DiffusersStudio
from ..hosts.diffusers.tokens import item_tokens
from ..numbers import minus
from ..pixelwise.attention_maps import Items
from ..pixelwise.regions import from_attention, from_masks
from ..pixelwise.schedules import CURVES, SlowCurve
from ..statistics import bootstrap
from .codec import PATCH
from .evaluate import BATCH, Scores, evaluation_scenes, score_images
from .judge import Judge
from .render import render
from .vocabulary import object_phrases
from .world import PIXELS, Scene, canonical_caption

Kind = Literal["synchronous", "concave", "dynamic", "static", "true"]
ASYNCHRONOUS: tuple[Kind, ...] = ("concave", "dynamic", "static", "true")
STRENGTHS = (0.3, 0.5, 0.7)
SHOWN = ("attributes", "alignment", "noise")
NAMES = {"dynamic": "pixel-wise, regions of each step's attention", "concave": "concave: all pixels alike"}
ITEMS = 2
SIZE = (PIXELS // PATCH, PIXELS // PATCH)  # (height, width) of the latent


@dataclass(frozen=True)
class Arm:
    """One way of sampling: a row of the table. `strength` and `curve` are those of both objects."""

    kind: Kind
    steps: int
    strength: float = 0.0
    curve: SlowCurve = "quadratic"

    @property
    def name(self) -> str:
        """The row's name."""
        return self.kind if self.kind == "synchronous" else f"{self.kind}, {self.curve}, k = {self.strength:g}"

    @property
    def key(self) -> str:
        """The name with the steps."""
        return f"{self.steps} steps: {self.name}"


def core(steps: int) -> list[Arm]:
    """The synchronous arm, and every kind at k = .5 on the quadratic curve."""
    return [Arm("synchronous", steps), *(Arm(kind, steps, 0.5) for kind in ASYNCHRONOUS)]


def sweep(steps: int) -> list[Arm]:
    """The core; then concave and dynamic with every k on the quadratic curve, and on every curve at k = .5."""
    settings = [(k, curve) for curve, k in product(CURVES, STRENGTHS) if (curve == "quadratic") != (k == 0.5)]
    kinds: tuple[Kind, ...] = ("concave", "dynamic")
    return [*core(steps), *(Arm(kind, steps, k, curve) for (k, curve), kind in product(settings, kinds))]


def two_object_scenes(count: int, seed: int = 1234) -> list[Scene]:
    """Held-out scenes of two objects."""
    drawn = evaluation_scenes(3 * count, seed)
    return [scene for scene in drawn if len(scene.items) == ITEMS][:count]


class Bench:
    """Draws and judges the arms of one set of scenes. The synchronous arm's attention gives the static masks."""

    def __init__(self, studio: DiffusersStudio, judge: Judge, scenes: Sequence[Scene], guidance: float) -> None:
        self._studio, self._judge, self._scenes, self._guidance = studio, judge, scenes, guidance
        self._prompts = [canonical_caption(scene) for scene in scenes]
        self._tokens = [self._tokens_of(prompt) for prompt in self._prompts]
        self._maps: dict[int, Tensor] = {}  # (n, 2, h, w) by the steps of the run

    @property
    def captions(self) -> int:
        """How many captions each arm draws."""
        return len(self._prompts)

    def score(self, arm: Arm) -> Scores:
        """Judge one image a scene, values (n,)."""
        return score_images(self._judge, self._draw(arm), self._prompts)

    def maps(self, steps: int) -> Tensor:
        """The attention to both objects, the mean over a synchronous run."""
        if steps not in self._maps:
            self._draw(Arm("synchronous", steps))
        return self._maps[steps]

    def overlap(self, steps: int) -> float:
        """Mean intersection over union of the static masks with the true ones."""
        static = from_attention(self.maps(steps), [0.5] * ITEMS, SIZE)
        true = true_regions(self._scenes)
        shared, either = (static & true).sum((2, 3)), (static | true).sum((2, 3))
        return float((shared / either).mean())

    def _tokens_of(self, prompt: str) -> Items:
        return item_tokens(self._studio.pipe, prompt, object_phrases(prompt), t5_length=0)

    def _draw(self, arm: Arm) -> Tensor:
        """(n, 3, H, W). The noise of a scene depends on its position alone: arms are paired."""
        images, maps = [], []
        for part in tqdm(list(parts(len(self._scenes))), desc=arm.name, leave=False):
            prompts, seeds = self._prompts[part], list(range(part.start, part.stop))
            with self._context(arm, part) as capture:
                done = self._studio.render(prompts, seeds, steps=arm.steps, guidance=self._guidance)
            images.append(done.images)
            maps += [capture.maps] if arm.kind == "synchronous" else []
        if maps:
            self._maps[arm.steps] = torch.cat(maps)
        return torch.cat(images)

    def _context(self, arm: Arm, part: slice) -> AbstractContextManager[Any]:
        if arm.kind == "synchronous":
            return captured(self._studio.pipe, self._tokens[part])
        if arm.strength == 0:
            return nullcontext()
        strengths = [arm.strength] * ITEMS
        options = Pixelwise(arm.curve, concave=arm.kind == "concave")
        return pixelwise(self._studio.pipe, self._regions(arm, part, strengths), strengths, options)

    def _regions(self, arm: Arm, part: slice, strengths: list[float]) -> Tensor | Phrases:
        if arm.kind == "dynamic":
            return Phrases(self._tokens[part])
        if arm.kind == "static":
            return from_attention(self.maps(arm.steps)[part], strengths, SIZE)
        return true_regions(self._scenes[part])


def parts(count: int) -> Iterator[slice]:
    """The batches."""
    for start in range(0, count, BATCH):
        yield slice(start, min(start + BATCH, count))


def true_regions(scenes: Sequence[Scene]) -> Tensor:
    """Where the two objects of each scene are, bool (n, 2, h, w) on the latent, whole patches."""
    objects = render(scenes)[1]
    halves = torch.stack([half_of(scene) for scene in scenes])
    drawn = [F.max_pool2d((objects * side)[:, None], 9, 1, 4)[:, 0] for side in (halves, 1 - halves)]
    return from_masks(drawn, [0.5] * ITEMS, SIZE, patch=2)


def half_of(scene: Scene) -> Tensor:
    """1 in the half of the picture (H, W) that holds the first object."""
    half = torch.zeros(PIXELS, PIXELS)
    side = PIXELS // 2
    if scene.items[0].x < scene.items[1].x:
        half[:, :side] = 1
    else:
        half[:side] = 1
    return half


# --- the report ---------------------------------------------------------------------------------------------------


def measure(bench: Bench, arms: Sequence[Arm], partial: Path) -> dict[Arm, Scores]:
    """Score all arms. Those in the file `partial`, of as many captions, are not drawn again; each is added to it."""
    done: dict[str, Any] = read_json(partial, AsyncDiffError) if partial.exists() else {}
    for arm in tqdm(arms, desc="arms"):
        if len(done.get(arm.key, {}).get("attributes", [])) != bench.captions:
            done[arm.key] = {metric: values.tolist() for metric, values in bench.score(arm).items()}
            write_json(partial, done)
    return {arm: {metric: np.array(values) for metric, values in done[arm.key].items()} for arm in arms}


def report(arms: dict[Arm, Scores]) -> list[dict[str, Any]]:
    """One row an arm: means, and paired differences to the synchronous and to the concave arm, with 95 % intervals."""
    return [asdict(arm) | {metric: cells(arms, arm, metric) for metric in SHOWN} for arm in arms]


def cells(arms: dict[Arm, Scores], arm: Arm, metric: str) -> dict[str, Any]:
    """One metric of one arm, in its own unit."""
    found = {"mean": asdict(bootstrap(arms[arm][metric]))}
    for name, other in (("synchronous", Arm("synchronous", arm.steps)), ("concave", replace(arm, kind="concave"))):
        if arm.kind not in ("synchronous", name) and other in arms:
            found[f"to_{name}"] = asdict(bootstrap(arms[arm][metric] - arms[other][metric]))
    return found


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The attributes as a table in per cent, and the noise."""
    lines = [
        "| steps | arm | k | curve | attributes, % | to synchronous | to concave | noise, /255 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        plain = row["kind"] == "synchronous"
        setting = ["", ""] if plain else [f"{row['strength']:g}", row["curve"]]
        attributes = [show(row["attributes"].get(part), 100) for part in ("mean", "to_synchronous", "to_concave")]
        values = [str(row["steps"]), row["kind"], *setting, *attributes, f"{row['noise']['mean']['mean']:.3f}"]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


def show(interval: dict[str, float] | None, scale: float) -> str:
    """Mean and interval; nothing where there is none."""
    if interval is None:
        return ""
    mean, low, high = (interval[part] * scale for part in ("mean", "low", "high"))
    return minus(f"{mean:.2f} [{low:.2f}, {high:.2f}]")


def chart(rows: Sequence[dict[str, Any]], subtitle: str) -> Image.Image:
    """Paired differences to the synchronous sampler over k, quadratic curve: the control and pixel-wise."""
    plots = [
        Plot(title, "strength k (0 is the synchronous sampler)", "points", [line(rows, kind, metric) for kind in NAMES])
        for metric, title in (("attributes", "Attributes found"), ("alignment", "Their mean probability"))
    ]
    return line_chart(plots, title="Slowing regions down on the embedded pipeline", subtitle=subtitle)


def line(rows: Sequence[dict[str, Any]], kind: str, metric: str) -> Series:
    """One kind's differences at the first number of steps, in points, with their intervals."""
    steps = rows[0]["steps"]
    wanted = [row for row in rows if (row["steps"], row["kind"], row["curve"]) == (steps, kind, "quadratic")]
    points = {0.0: dict.fromkeys(("mean", "low", "high"), 0.0)}
    points |= {row["strength"]: row[metric]["to_synchronous"] for row in wanted}
    found = [points[k] for k in sorted(points)]
    mean, low, high = ([100 * each[part] for each in found] for part in ("mean", "low", "high"))
    colour = NEUTRAL if kind == "concave" else RAMP[2]
    return Series(NAMES[kind], sorted(points), mean, colour, kind == "concave", low, high)
