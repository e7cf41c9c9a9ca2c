"""How good the embedded pipeline is, and what γ does to it: the numbers of the model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..hosts.diffusers.studio import DiffusersStudio
from ..policies import Policy
from ..retiming.settings import Retiming
from ..statistics import bootstrap
from .codec import PATCH
from .judge import JudgeNetwork
from .render import render
from .vocabulary import BACKGROUNDS
from .world import Scene
from .worlds import EASY, World

Scores = dict[str, np.ndarray]
Table = dict[str, dict[str, Any]]
METRICS = ("attributes", "alignment", "detail", "noise")
DOTTED = tuple(BACKGROUNDS.index(name) for name in ("starry", "confetti"))
BATCH = 16


@dataclass(frozen=True)
class Arm:
    """One way of sampling: a row of the table."""

    name: str
    steps: int
    guidance: float
    policy: Policy | None = None
    retiming: Retiming | None = None


def evaluation_scenes(
    count: int, seed: int = 1234, held_out: bool = True, *, world: World = EASY, dotted: bool = False,
    objects: int | None = None,
) -> list[Scene]:  # fmt: skip
    """Fresh scenes. ``held_out``: each shows a triple that training never showed. ``dotted``: detail can be counted."""
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = world.sample(rng, held_out)
        if (not dotted or scene.background in DOTTED) and objects in (None, len(scene.items)):
            scenes.append(scene)
    return scenes


def score_images(judge: JudgeNetwork, images: Tensor, prompts: list[str]) -> Scores:
    """The judge's metrics of one image for each prompt, values (n,)."""
    return {name: value.numpy() for name, value in judge.score(images, prompts).items()}


def compare(arms: dict[str, Scores], baseline: str | None = None) -> Table:
    """Per arm and metric the mean, and the paired difference to ``baseline`` if there is one, with 95 % intervals."""
    return {name: {metric: _cell(arms, name, metric, baseline) for metric in METRICS} for name in arms}


def _cell(arms: dict[str, Scores], name: str, metric: str, baseline: str | None) -> dict[str, Any]:
    cell: dict[str, Any] = {"mean": asdict(bootstrap(arms[name][metric]))}
    if baseline and name != baseline:
        cell["paired"] = asdict(bootstrap(arms[name][metric] - arms[baseline][metric]))
    return cell


class Card:
    """The numbers of one pipeline's model card. ``guidance``: of every arm."""

    def __init__(self, studio: DiffusersStudio, judge: JudgeNetwork, world: World, guidance: float) -> None:
        self._studio, self._judge, self._world, self._guidance = studio, judge, world, guidance

    def judge(self, count: int = 1024, seed: int = 99) -> dict[str, float]:
        """The judge on real renders: share of attributes read correctly, and R² of the counted dot density."""
        scenes = self._scenes(count // 2, seed) + self._scenes(count // 2, seed + 1, held_out=False)
        images, masks, dots = render(scenes)
        scores = self._scored(images, scenes)
        density = (1000 * dots / (1 - masks).sum((1, 2))).numpy()
        unexplained = np.square(scores["detail"] - density).sum() / np.square(density - density.mean()).sum()
        return {"attribute_accuracy": float(scores["attributes"].mean()), "detail_r2": float(1 - unexplained)}

    def psnr(self, count: int = 64, seed: int = 7) -> float:
        """Mean PSNR in dB of renders through the autoencoder."""
        images = render(self._scenes(count, seed))[0]
        with torch.no_grad():
            made = self._studio.pipe.vae(images * 2 - 1).sample
        error = ((made / 2 + 0.5).clamp(0, 1) - images).square().mean((1, 2, 3))
        return float((-10 * error.log10()).mean())

    def seams(self, count: int, steps: int = 15) -> dict[str, float]:
        """`seam_ratio` of generated images and of true ones, on backgrounds without dots, where a seam would show."""
        scenes = [scene for scene in self._scenes(4 * count) if scene.background not in DOTTED][:count]
        plain = Arm("seams", steps, self._guidance)
        return {"generated": seam_ratio(self._drawn(plain, scenes)), "real": seam_ratio(render(scenes)[0])}

    def attributes(self, count: int, steps: int = 15) -> Table:
        """Synchronous sampling of held-out and of seen combinations, beside real renders of the held-out ones."""
        unseen, seen = self._scenes(count), self._scenes(count, held_out=False)
        plain = Arm(f"synchronous, {steps} steps", steps, self._guidance)
        return compare(
            {
                "held-out combinations": self._scored(self._drawn(plain, unseen), unseen),
                "seen combinations": self._scored(self._drawn(plain, seen), seen),
                "real renders (held-out)": self._scored(render(unseen)[0], unseen),
            }
        )

    def gamma(self, policy: Policy, count: int, steps: int = 8, gammas: Sequence[float] = (0.5, 1.0, 2.0)) -> Table:
        """γ on held-out captions with countable detail, paired against the synchronous sampler of the same steps."""
        scenes = self._scenes(count, dotted=True)
        baseline = f"γ = 0 (synchronous, {steps} steps)"
        arms = [Arm(baseline, steps, self._guidance)]
        arms += [Arm(f"γ = {gamma:g}", steps, self._guidance, policy, Retiming(gamma=gamma)) for gamma in gammas]
        arms += [Arm(f"synchronous, {more} steps", more, self._guidance) for more in (15, 30)]
        scores = {arm.name: self._scored(self._drawn(arm, scenes), scenes) for arm in arms}
        return compare(scores | {"real renders": self._scored(render(scenes)[0], scenes)}, baseline)

    def _scenes(self, count: int, seed: int = 1234, **options: bool) -> list[Scene]:
        return evaluation_scenes(count, seed, world=self._world, **options)

    def _drawn(self, arm: Arm, scenes: Sequence[Scene]) -> Tensor:
        """One image a scene, (n, 3, H, W). The noise of a scene depends on its position alone: arms are paired."""
        prompts = [self._world.canonical_caption(scene) for scene in scenes]
        images = []
        for start in tqdm(range(0, len(prompts), BATCH), desc=arm.name, leave=False):
            chunk = prompts[start : start + BATCH]
            seeds = list(range(start, start + len(chunk)))
            done = self._studio.render(chunk, seeds, arm.policy, arm.retiming, steps=arm.steps, guidance=arm.guidance)
            images.append(done.images)
        return torch.cat(images)

    def _scored(self, images: Tensor, scenes: Sequence[Scene]) -> Scores:
        return score_images(self._judge, images, [self._world.canonical_caption(scene) for scene in scenes])


def seam_ratio(images: Tensor, cell: int = PATCH) -> float:
    """Mean step across the borders of the latents' cells over the mean step elsewhere, for images (n, 3, H, W).

    Far above 1, the codec leaves visible seams; true pictures are near 1.
    """
    steps = (images[..., 1:] - images[..., :-1]).abs().mean((0, 1, 2))
    steps = steps + (images[..., 1:, :] - images[..., :-1, :]).abs().mean((0, 1, 3))
    border = torch.arange(1, len(steps) + 1) % cell == 0
    return float(steps[border].mean() / steps[~border].mean())


def markdown(table: Table) -> str:
    """The table as Markdown: mean, and in brackets the paired difference with its 95 % interval."""
    lines = ["| | attributes | detail, dots/1k px | noise, /255 |", "|---|---|---|---|"]
    for name, cells in table.items():
        shown = [
            _show(cells[metric], 100 if metric == "attributes" else 1) for metric in METRICS if metric != "alignment"
        ]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _show(cell: dict[str, Any], scale: float) -> str:
    mean, paired = cell["mean"], cell.get("paired")
    if paired is None:
        low, high = mean["low"] * scale, mean["high"] * scale
        return f"{mean['mean'] * scale:.2f} [{low:.2f}, {high:.2f}]"
    low, high = paired["low"] * scale, paired["high"] * scale
    return f"{mean['mean'] * scale:.2f} ({paired['mean'] * scale:+.2f} [{low:+.2f}, {high:+.2f}])"
