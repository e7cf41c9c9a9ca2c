"""The paper's figures 2 to 5, drawn from the results of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ...drawing import Cell, Row, Series, draw_panel, to_pil
from ...drawing.chart import Plot, line_chart
from ...drawing.png import save_png
from ...drawing.theme import NEUTRAL, ramp
from ...drawing.violin import violin_chart
from ...numbers import mean_deviation, minus, strength
from ...retiming.equations import DEFAULT_BOUND
from .arms import SYNCHRONOUS
from .evaluate import Comparison, Result

GAIN = "gain"
MOST_COLUMNS = 6


def save_figures(folder: Path, results: Sequence[Result], prompts: Sequence[str]) -> list[Path]:
    """Draw what the results allow: figure-2.png (metrics against γ), figure-3.png and figure-4.png (D per step, below
    and above the bound of 0.5), figure-5….png (a row per prompt).
    """
    drawn = {"figure-2": metrics_against_gamma(results)}
    drawn |= {
        "figure-3": deviation_per_step(results, lifted=False),
        "figure-4": deviation_per_step(results, lifted=True),
    }
    drawn |= {f"figure-5-{label}": pictures_by_gamma(results, label, prompts) for label in _labels(results)}
    drawn["figure-5"] = pictures_by_arm(results, prompts)
    return [save_png(folder / f"{_file(name)}.png", image) for name, image in drawn.items() if image]


def metrics_against_gamma(results: Sequence[Result]) -> Image.Image | None:
    """Figure 2: a plot per metric, a line per policy over γ; bands are the paired 95 % intervals."""
    labels = [label for label in _labels(results) if len(_by_gamma(results, label)) > 1]
    if not labels:
        return None
    colours = dict(zip(labels, ramp(len(labels)), strict=True))
    plots = []
    for metric in (GAIN, *results[0].metrics):
        lines = [_against_gamma(_by_gamma(results, label), label, metric, colours[label]) for label in labels]
        gammas = [gamma for line in lines for gamma in line.x]
        plain = [r for r in results if r.arm.policy is None and r.arm.steps != results[0].arm.steps]
        level = [_level(r, metric, gammas) for r in plain]
        plots.append(Plot(metric, "strength γ", "", [*lines, *level]))
    count = len(results[0].measured.seconds)
    subtitle = (
        f"{count} prompts, the same noise at every strength γ; 0 is the synchronous sampler. Bands: 95 % bootstrap"
        " intervals of the paired difference to it."
    )
    return line_chart(plots, title="Scaling the deviation", subtitle=subtitle, columns=min(3, len(plots)))


def deviation_per_step(results: Sequence[Result], lifted: bool) -> Image.Image | None:
    """Figures 3 and 4: how D of each step is distributed over the images, at γ = 1."""
    groups = {}
    for result in results:
        policy = result.arm.policy
        plain = policy is not None and result.arm.retiming.gamma == 1 and not result.arm.variant
        if policy is not None and plain and (policy.bound > DEFAULT_BOUND) == lifted:
            groups[result.arm.name] = [step.tolist() for step in result.measured.deviation[:, 1:].T]
    if not groups:
        return None
    title = "Deviation per step, lifted bound" if lifted else "Deviation per step"
    subtitle = "Density over all images at strength γ = 1, with quartiles and median. Step 0 never deviates."
    return violin_chart(groups, title=title, subtitle=subtitle, first_step=1)


def pictures_by_gamma(results: Sequence[Result], label: str, prompts: Sequence[str]) -> Image.Image | None:
    """Figure 5: a row per prompt, a column per γ of one policy."""
    return _pictures(
        [result for _, result in _by_gamma(results, label)],
        prompts,
        f"{label}: the same noise at several strengths",
        by_gamma=True,
    )


def pictures_by_arm(results: Sequence[Result], prompts: Sequence[str]) -> Image.Image | None:
    """Figure 5 across policies: the synchronous sampler, with more steps as well, and every policy at γ = 1."""
    chosen = [result for result in results if _is_main(result, results[0].arm.steps)]
    return _pictures(chosen[:MOST_COLUMNS], prompts, "The same noise in every column", by_gamma=False)


# --- inside -----------------------------------------------------------------------------------------------------------


def _labels(results: Sequence[Result]) -> list[str]:
    """The policies' names."""
    return list(dict.fromkeys(result.arm.label for result in results if result.arm.policy is not None))


def _by_gamma(results: Sequence[Result], label: str) -> list[tuple[float, Result]]:
    """The arms of a policy that differ in γ alone, in its order; the synchronous one is γ = 0."""
    scaled = [r for r in results if r.arm.label == label and r.arm.policy is not None and not r.arm.variant]
    plain = [(0.0, r) for r in results if r.arm.name == SYNCHRONOUS]
    return sorted(plain + [(r.arm.retiming.gamma, r) for r in scaled], key=lambda entry: entry[0])


def _value(result: Result, metric: str) -> Comparison:
    return result.gain if metric == GAIN else result.metrics[metric]


def _against_gamma(
    entries: Sequence[tuple[float, Result]], label: str, metric: str, colour: tuple[int, int, int]
) -> Series:
    base = _value(entries[0][1], metric).mean
    values = [_value(result, metric) for _, result in entries]
    found = [value.differences.get(SYNCHRONOUS) for value in values]
    return Series(
        label,
        [gamma for gamma, _ in entries],
        [value.mean for value in values],
        colour,
        low=[base + interval.low if interval else base for interval in found],
        high=[base + interval.high if interval else base for interval in found],
    )


def _level(result: Result, metric: str, gammas: Sequence[float]) -> Series:
    mean = _value(result, metric).mean
    return Series(result.arm.name, [min(gammas), max(gammas)], [mean, mean], NEUTRAL, dashed=True)


def _is_main(result: Result, steps: int) -> bool:
    """A policy at γ = 1, the synchronous sampler, or that with more steps."""
    arm = result.arm
    if arm.policy is None:
        return arm.name == SYNCHRONOUS or arm.steps != steps
    return arm.retiming.gamma == 1 and not arm.variant


def _pictures(results: Sequence[Result], prompts: Sequence[str], title: str, *, by_gamma: bool) -> Image.Image | None:
    """The images that were kept, with their scores below."""
    count = min((len(result.measured.images) for result in results), default=0)
    if not count or len(results) < 2:
        return None
    names = [_column(result, by_gamma) for result in results]
    rows = [Row(prompts[row], [_cell(result, row) for result in results]) for row in range(count)]
    notes = [mean_deviation(result.mean_deviation) for result in results]
    return draw_panel(rows, names, title=title, column_notes=notes)


def _column(result: Result, by_gamma: bool) -> str:
    if not by_gamma:
        return result.arm.name
    return strength(result.arm.retiming.gamma if result.arm.policy is not None else 0)


def _cell(result: Result, row: int) -> Cell:
    image = to_pil(result.measured.images[row].to(torch.float32) / 255)
    shown = [(name, values[row]) for name, values in result.measured.scores.items() if name in result.metrics]
    return Cell(image, [(name, minus(f"{float(value):.3g}")) for name, value in shown])


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
