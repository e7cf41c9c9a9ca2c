"""Eq 16: numbers worked out by hand."""

import csv
import io

import pytest
import torch

from asyncdiff.tpm.rewards.base import RewardError
from asyncdiff.tpm.rewards.catalogue import RESIDUAL_NOISE
from asyncdiff.tpm.rewards.composite import composite
from asyncdiff.tpm.rewards.report import as_csv

A = torch.tensor([1.0, 2.0, 3.0])
B = torch.tensor([30.0, 10.0, 20.0])
Z = 1.5**0.5  # of 1, 2, 3: the deviation is √(2/3)


def test_golden():
    result = composite({"a": A, "b": B})
    assert result.z["a"] == pytest.approx([-Z, 0, Z], abs=1e-7)
    assert result.z["b"] == pytest.approx([Z, -Z, 0], abs=1e-7)
    assert result.reward == pytest.approx([0, -Z / 2, Z / 2], abs=1e-7)
    assert result.ranking() == [2, 0, 1]
    assert result.reward.dtype == torch.float64
    assert result.raw["b"].tolist() == B.tolist()


def test_the_sample_deviation():
    assert composite({"a": A}, ddof=1).reward == pytest.approx([-1, 0, 1], abs=1e-7)
    assert composite({"a": A[:1]}, ddof=1).reward.tolist() == [0]


def test_groups_are_standardised_apart():
    result = composite({"a": torch.tensor([1.0, 100.0, 3.0, 200.0, 7.0])}, groups=["x", "y", "x", "y", "z"])
    assert result.reward == pytest.approx([-1, -1, 1, 1, 0], abs=1e-7)


def test_weights_are_relative_and_may_be_negative():
    twice = composite({"a": A, "b": B}, weights={"a": 3.0})
    assert twice.reward == pytest.approx([(-3 * Z + Z) / 4, -Z / 4, 3 * Z / 4], abs=1e-7)
    against = composite({"a": A, "b": B}, weights={"b": -1.0})
    assert against.reward == pytest.approx([-Z, Z / 2, Z / 2], abs=1e-7)


def test_one_image_and_constant_metrics_count_nothing():
    assert composite({"a": A[:1], "b": B[:1]}).reward.tolist() == [0]
    constant = torch.full((3,), 0.1)
    assert composite({"a": A, "b": constant}).z["b"].tolist() == [0, 0, 0]


def test_statistics_are_float64():
    assert composite({"a": 1e6 + torch.tensor([0.0, 0.0625, 0.125])}).reward == pytest.approx([-Z, 0, Z], abs=1e-6)


def test_noise_counts_against_and_stops_at_the_floor():
    result = composite({"residual-noise": torch.tensor([0.1, 0.5, 2.0])})
    assert result.raw["residual-noise"] == pytest.approx([0.1, 0.5, 2.0])
    assert result.reward[0] == result.reward[1] > result.reward[2]


@pytest.mark.parametrize(
    ("scores", "options", "words"),
    [
        ({}, {}, "nothing to combine"),
        ({"a": A, "b": B[:2]}, {}, "a 3, b 2"),
        ({"a": A}, {"groups": ["x"]}, "groups 1"),
        ({"a": A / 0}, {}, "not finite"),
        ({"a": A}, {"weights": {"b": 1.0}}, "weight for b"),
        ({"a": A}, {"weights": {"a": 0.0}}, "not all 0"),
        ({"a": A}, {"weights": {"a": float("nan")}}, "not all 0"),
        ({"a": A}, {"ddof": 2}, "ddof"),
    ],
)
def test_what_cannot_be_combined(scores, options, words):
    with pytest.raises(RewardError, match=words):
        composite(scores, **options)


def test_the_report_is_a_table_in_the_order_of_the_images():
    combined = composite({"clip-score": torch.tensor([0.25, 0.5]), RESIDUAL_NOISE: torch.tensor([1.0, 3.0])})
    titles = {"clip-score": "CLIP Score", RESIDUAL_NOISE: "Residual noise"}
    rows = list(csv.DictReader(io.StringIO(as_csv(combined, ["a, b", "c"], titles))))
    assert [row["prompt"] for row in rows] == ["a, b", "c"]
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert [float(row["CLIP Score"]) for row in rows] == [0.25, 0.5]
    assert [float(row["z(Residual noise)"]) for row in rows] == pytest.approx([1, -1])
    assert [float(row["R"]) for row in rows] == pytest.approx(combined.reward.tolist(), abs=1e-8)
