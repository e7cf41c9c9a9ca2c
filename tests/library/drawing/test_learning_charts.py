"""Charts of a training and of a search: what they are drawn from, from the first record on."""

import numpy as np
import pytest

from asyncdiff.tpm.drawing.learning import (
    MOST_POINTS,
    draw_live,
    draw_report,
    search_plots,
    standardised,
    training_plots,
)

KNOTS = [0.9, 0.6, 0.3]


def record(iteration, gain=None, metrics=None):
    probe = {"probe": {"gain": gain}} if gain is not None else {"probe": None}
    metrics = {"a": float(iteration), "b": 1.0} if metrics is None else metrics
    return {"iteration": iteration, "metrics": metrics, "D": [0.1 * iteration, 0.2], "D_std": [0.05, 0.1], **probe}


def constant(d, gain, tail=0):
    return {"stage": "constants", "D": d, "tail_sync": tail, "gain": gain, "error": 0.1}


def generation(number):
    gains = {"centre": 0.1, "elite": 0.2, "best": 0.3}
    return {"stage": "generation", "generation": number, "mean": [0.1, 0.0, -0.1], "std": [0.1, 0.2, 0.3], **gains}


def by_title(plots):
    return {plot.title: plot.series for plot in plots}


def test_running_means_start_at_zero_and_are_measured_in_the_values_own_spread():
    assert standardised([2.0, 2.0, 2.0]) == [0.0, 0.0, 0.0]
    values = [0.0] * 10 + [1.0] * 90
    line = standardised(values)
    assert line[:10] == [0.0] * 10
    assert line[-1] == pytest.approx(1 / np.std(values), rel=1e-3)
    assert line == sorted(line)


def test_one_iteration_is_enough_and_comparisons_get_a_plot_of_their_own():
    assert set(by_title(training_plots([record(1)]))) == {"Scores", "Deviation (D)"}
    plots = by_title(training_plots([record(1), record(2, gain=0.4), record(3), record(4, gain=-0.1)]))
    [gain] = plots["Gain over synchronous"]
    assert (gain.x, gain.y) == ([2, 4], [0.4, -0.1])
    assert [series.label for series in plots["Scores"]] == ["a", "b"]
    before, now = plots["Deviation (D)"]
    assert list(before.y) == [0.1, 0.2]
    assert list(now.y) == [0.4, 0.2]
    assert now.low == pytest.approx([0.35, 0.1])
    assert draw_live(training_plots([record(1)]), "live").size != draw_live(list(map(plot, range(3))), "live").size


def plot(number):
    return training_plots([record(1)])[number % 2]


def test_a_long_run_keeps_its_last_iteration_and_few_points():
    records = [record(n) for n in range(1, 3000)]
    scores = by_title(training_plots(records))["Scores"]
    assert all(len(series.x) <= MOST_POINTS for series in scores)
    assert all(series.x[-1] == 2999 for series in scores)


def test_iterations_without_any_finite_score_are_drawn_too():
    assert draw_report(training_plots([record(1, metrics={})]), "title", "subtitle").width > 1000


def test_a_search_shows_what_there_is_so_far():
    constants = [constant(0.2, 0.1), constant(0.0, 0.0), constant(0.1, 0.3)]
    [only] = search_plots(constants, KNOTS)
    assert list(only.series[0].x) == [0.0, 0.1, 0.2]
    assert list(only.series[0].y) == [0.0, 0.3, 0.1]
    [with_tail] = search_plots([*constants, constant(0.2, 0.4, tail=1)], KNOTS)
    assert [(line.label, list(line.y)) for line in with_tail.series] == [
        ("constants", [0.0, 0.3, 0.1]),
        ("last 1 synchronous", [0.0, 0.4]),
    ]
    plots = by_title(search_plots([*constants, generation(1), generation(2)], KNOTS))
    assert [series.label for series in plots["Gain over synchronous"]] == ["centre", "elite", "best"]
    assert list(plots["The curve"][0].x) == KNOTS
    assert search_plots([], KNOTS) == []
    page = np.asarray(draw_live(search_plots([*constants, generation(1)], KNOTS), "a search"))
    assert page.std() > 5
