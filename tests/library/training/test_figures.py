"""Figures 2 to 5 and the violins they need: drawn where there is something to draw, and what they show is the data."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from asyncdiff.tpm.drawing import Series
from asyncdiff.tpm.drawing.chart import Plot, line_chart
from asyncdiff.tpm.drawing.violin import density, violin_chart
from asyncdiff.tpm.policies import Constant, Curve
from asyncdiff.tpm.training.compare.arms import SYNCHRONOUS, arms_of, baselines
from asyncdiff.tpm.training.compare.evaluate import Evaluation
from asyncdiff.tpm.training.compare.figures import (
    deviation_per_step,
    metrics_against_gamma,
    pictures_by_gamma,
    save_figures,
)
from asyncdiff.tpm.training.compare.measure import Measurer
from asyncdiff.tpm.training.distributed import Processes
from support.toy import ToyStudio, closeness

STEPS = 6
PROMPTS = [f"prompt {n}" for n in range(8)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    arms = [
        *baselines(STEPS, [12]),
        *arms_of("curve/a", Curve([(0.9, 0.4), (0.2, -0.2)]), STEPS, (0.0, 0.5, 1.0), ()),
        *arms_of("lifted", Constant(0.8, bound=1.0), STEPS, (1.0, 2.0), ("tail",)),
    ]
    measurer = Measurer(ToyStudio(), closeness(STEPS, 0.3), 8, Processes(), keep=2)
    return Evaluation(measurer, PROMPTS, tmp_path_factory.mktemp("figures")).run(arms)


def test_every_figure_is_written(tmp_path, results):
    files = save_figures(tmp_path, results, PROMPTS)
    names = ["figure-2", "figure-3", "figure-4", "figure-5-curve-a", "figure-5-lifted", "figure-5"]
    assert [file.stem for file in files] == names
    for file in files:
        image = Image.open(file)
        assert image.width > 600
        assert len(image.resize((64, 64)).getcolors(64 * 64)) > 8


def test_figure_two_shows_the_gains(results, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "asyncdiff.tpm.training.compare.figures.line_chart",
        lambda plots, **words: seen.extend(plots) or Image.new("RGB", (1, 1)),
    )
    metrics_against_gamma(results)
    assert [plot.title for plot in seen] == ["gain", "closeness", "noise gauge"]
    line = next(series for series in seen[1].series if series.label == "curve/a")
    by_name = {result.arm.name: result.metrics["closeness"] for result in results}
    assert line.x == [0.0, 0.5, 1.0]
    assert line.y == [by_name[name].mean for name in (SYNCHRONOUS, "curve/a, γ = 0.5", "curve/a")]
    interval = by_name["curve/a"].differences[SYNCHRONOUS]
    assert line.low[2] == by_name[SYNCHRONOUS].mean + interval.low
    assert seen[1].series[-1].label == "synchronous, 12 steps"


def test_the_bounds_are_in_separate_figures(results, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "asyncdiff.tpm.training.compare.figures.violin_chart", lambda groups, **words: seen.append(groups)
    )
    deviation_per_step(results, lifted=False)
    deviation_per_step(results, lifted=True)
    assert [list(groups) for groups in seen] == [["curve/a"], ["lifted"]]
    assert len(seen[0]["curve/a"]) == STEPS - 1
    assert seen[1]["lifted"][0] == pytest.approx([0.8] * len(PROMPTS))


def test_what_is_not_there_is_not_drawn(tmp_path, results):
    plain = [result for result in results if result.arm.policy is None]
    assert metrics_against_gamma(plain) is None
    assert deviation_per_step(plain, lifted=False) is None
    bare = [replace(r, measured=replace(r.measured, images=r.measured.images[:0])) for r in results]
    assert pictures_by_gamma(bare, "lifted", PROMPTS) is None
    assert {file.stem for file in save_figures(tmp_path, bare, PROMPTS)} == {"figure-2", "figure-3", "figure-4"}


def test_a_density_is_highest_where_the_values_are():
    values = np.concatenate([np.random.default_rng(0).normal(0.2, 0.05, 400), [0.9]])
    heights, widths = density(values)
    assert widths.max() == 1
    assert heights[widths.argmax()] == pytest.approx(0.2, abs=0.03)
    assert widths[np.abs(heights - 0.6).argmin()] < 0.01


def test_violins_of_single_and_of_equal_values():
    image = violin_chart({"one": [[0.1], [0.2]], "equal": [[0.3] * 5, [0.0] * 5], "none": [[], []]}, title="t")
    assert image.height > violin_chart({"one": [[0.1]]}, title="t").height


def test_plots_in_rows_make_a_higher_page():
    plot = Plot("p", "x", "", [Series("s", [0, 1], [0, 1])])
    row, grid = line_chart([plot] * 4, title="t"), line_chart([plot] * 4, title="t", columns=2)
    assert grid.height > row.height
    assert grid.width == row.width
