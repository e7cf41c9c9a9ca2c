"""How good the embedded pipeline is, and what γ does to it: the numbers of the model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from .judge import Judge, detail_density, labels
from .render import render
from .vocabulary import BACKGROUNDS
from .world import Scene, canonical_caption, sample_scene

Scores = dict[str, np.ndarray]
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


def evaluation_scenes(count: int, seed: int = 1234, held_out: bool = True, dotted: bool = False) -> list[Scene]:
    """Fresh scenes. ``held_out``: each shows a triple that training never showed. ``dotted``: detail can be counted."""
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, held_out)
        if not dotted or scene.background in DOTTED:
            scenes.append(scene)
    return scenes


def score_arm(studio: DiffusersStudio, judge: Judge, arm: Arm, scenes: Sequence[Scene], seed: int = 0) -> Scores:
    """Judge one image a scene, values (n,); see `draw_arm`."""
    return score_images(judge, draw_arm(studio, arm, scenes, seed), [canonical_caption(scene) for scene in scenes])


def draw_arm(studio: DiffusersStudio, arm: Arm, scenes: Sequence[Scene], seed: int = 0) -> Tensor:
    """One image a scene, (n, 3, H, W). The noise of a scene depends on (seed, position) alone: arms are paired."""
    prompts = [canonical_caption(scene) for scene in scenes]
    images = []
    for start in tqdm(range(0, len(prompts), BATCH), desc=arm.name, leave=False):
        chunk = prompts[start : start + BATCH]
        seeds = [seed * 1_000_003 + start + offset for offset in range(len(chunk))]
        done = studio.render(chunk, seeds, arm.policy, arm.retiming, steps=arm.steps, guidance=arm.guidance)
        images.append(done.images)
    return torch.cat(images)


def score_renders(judge: Judge, scenes: Sequence[Scene]) -> Scores:
    """The same judgement of true pictures of the scenes: what a perfect model would get."""
    return score_images(judge, render(scenes)[0], [canonical_caption(scene) for scene in scenes])


def score_images(judge: Judge, images: Tensor, prompts: list[str]) -> Scores:
    """The judge's metrics of one image for each prompt, values (n,)."""
    return {name: value.numpy() for name, value in judge.score(images, prompts).items()}


def compare(arms: dict[str, Scores], baseline: str | None = None) -> dict[str, dict[str, Any]]:
    """Per arm and metric the mean, and the paired difference to ``baseline`` if there is one, with 95 % intervals."""
    return {name: {metric: _cell(arms, name, metric, baseline) for metric in METRICS} for name in arms}


def _cell(arms: dict[str, Scores], name: str, metric: str, baseline: str | None) -> dict[str, Any]:
    cell: dict[str, Any] = {"mean": asdict(bootstrap(arms[name][metric]))}
    if baseline and name != baseline:
        cell["paired"] = asdict(bootstrap(arms[name][metric] - arms[baseline][metric]))
    return cell


def judge_quality(judge: Judge, count: int = 1024, seed: int = 99) -> dict[str, float]:
    """The judge on real renders: share of attributes read correctly, and R² of the counted dot density."""
    scenes = evaluation_scenes(count // 2, seed) + evaluation_scenes(count // 2, seed + 1, held_out=False)
    images, masks, dots = render(scenes)
    with torch.no_grad():
        logits, mask = judge(images)
    truth = labels(scenes)
    hits = torch.cat([(logits[name].argmax(-1) == truth[name])[truth[name] >= 0] for name in truth])
    density = 1000 * dots / (1 - masks).sum((1, 2))
    counted = detail_density(images, mask.sigmoid())
    unexplained = (counted - density).square().sum() / (density - density.mean()).square().sum()
    return {"attribute_accuracy": float(hits.float().mean()), "detail_r2": float(1 - unexplained)}


def reconstruction_psnr(codec: Callable[[Tensor], Tensor], count: int = 64, seed: int = 7) -> float:
    """Mean PSNR in dB of renders through ``codec``, which maps images in [-1, 1] to images."""
    images = render(evaluation_scenes(count, seed))[0]
    with torch.no_grad():
        made = codec(images * 2 - 1)
    error = ((made / 2 + 0.5).clamp(0, 1) - images).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


def seam_ratio(images: Tensor, cell: int = PATCH) -> float:
    """Mean step across the borders of the latents' cells over the mean step elsewhere, for images (n, 3, H, W).

    Far above 1, the codec leaves visible seams; true pictures are near 1.
    """
    steps = (images[..., 1:] - images[..., :-1]).abs().mean((0, 1, 2))
    steps = steps + (images[..., 1:, :] - images[..., :-1, :]).abs().mean((0, 1, 3))
    border = torch.arange(1, len(steps) + 1) % cell == 0
    return float(steps[border].mean() / steps[~border].mean())


def seam_report(studio: DiffusersStudio, count: int, guidance: float, steps: int = 15) -> dict[str, float]:
    """`seam_ratio` of generated images and of true ones, on backgrounds without dots, where a seam would show."""
    scenes = [scene for scene in evaluation_scenes(4 * count) if scene.background not in DOTTED][:count]
    plain = Arm("seams", steps, guidance)
    return {"generated": seam_ratio(draw_arm(studio, plain, scenes)), "real": seam_ratio(render(scenes)[0])}


def attribute_table(
    studio: DiffusersStudio, judge: Judge, count: int, guidance: float, steps: int = 15
) -> dict[str, Any]:
    """Synchronous sampling of held-out and of seen combinations, beside real renders of the held-out ones."""
    unseen, seen = evaluation_scenes(count), evaluation_scenes(count, held_out=False)
    plain = Arm(f"synchronous, {steps} steps", steps, guidance)
    return compare(
        {
            "held-out combinations": score_arm(studio, judge, plain, unseen),
            "seen combinations": score_arm(studio, judge, plain, seen),
            "real renders (held-out)": score_renders(judge, unseen),
        }
    )


def gamma_table(
    studio: DiffusersStudio, judge: Judge, policy: Policy, count: int, guidance: float, steps: int = 8,
    gammas: Sequence[float] = (0.5, 1.0, 2.0),
) -> dict[str, Any]:  # fmt: skip
    """γ on held-out captions with countable detail, paired against the synchronous sampler of the same steps."""
    scenes = evaluation_scenes(count, dotted=True)
    baseline = f"γ = 0 (synchronous, {steps} steps)"
    arms = [Arm(baseline, steps, guidance)]
    arms += [Arm(f"γ = {gamma:g}", steps, guidance, policy, Retiming(gamma=gamma)) for gamma in gammas]
    arms += [Arm(f"synchronous, {more} steps", more, guidance) for more in (15, 30)]
    scores = {arm.name: score_arm(studio, judge, arm, scenes) for arm in arms}
    return compare(scores | {"real renders": score_renders(judge, scenes)}, baseline)


def markdown(table: dict[str, dict[str, Any]]) -> str:
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
