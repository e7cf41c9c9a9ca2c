"""The command calibrate on the embedded pipeline, and latents without pictures."""

import json

import pytest

pytest.importorskip("diffusers")

import torch
from PIL import Image

from asyncdiff.tpm.cli import main
from asyncdiff.tpm.cli.training.calibrate import _say
from asyncdiff.tpm.hosts.diffusers.studio import ConfiguredStudio
from asyncdiff.tpm.policies import Constant, Curve, load_policy, solver_for
from asyncdiff.tpm.training.calibrate.calibrate import Calibrated

CALIBRATE = "calibrate --steps 4 --teacher-steps 16 --count 6 --batch 6 --no-progress"


@pytest.mark.parametrize("solver", ["dpmpp_2m"])
def test_it_leaves_a_policy_a_report_and_a_chart(tmp_path, capsys, solver):
    command = [*CALIBRATE.split(), "--solver", solver, "--out", str(tmp_path)]
    assert main(command) == 0
    assert "Experimental" in capsys.readouterr().out
    assert solver_for(load_policy(tmp_path / "calibrated.json", "sd3")) == solver
    report = json.loads((tmp_path / "calibration.json").read_text())
    assert report["cost"]["of the teacher"] == 96
    assert Image.open(tmp_path / "chart.png").width > 600
    assert main(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert json.loads((tmp_path / "calibration.json").read_text()) == report


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--teacher-steps", "6", "--steps", "5"], "too few"),
        (["--count", "9999"], "between 4 and 4096"),
        (["--prompts", "two.txt"], "There are 2 prompts for --count 6"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.txt").write_text("a red circle\na blue star")
    assert main([*CALIBRATE.split(), *arguments, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_latents_are_maps_and_are_not_decoded(studio, monkeypatch):
    monkeypatch.setattr(studio.pipe.vae, "decode", None)
    sd3 = ConfiguredStudio(studio, 2.0)
    plain = sd3.latents(["a", "bb"], [1, 2], steps=3)
    assert plain.shape == (2, 4, 8, 8)
    assert not torch.equal(plain, sd3.latents(["a", "bb"], [1, 2], Constant(0.4), steps=3))


def test_latents_of_flux_are_unpacked(flux_studio):
    packed = torch.arange(16.0 * 16).view(1, 16, 16)
    assert flux_studio.as_map(packed, (64, 64)).shape == (1, 4, 8, 8)


@pytest.mark.parametrize("a", [-0.5, 0.5])
def test_a_negative_deviation_is_told_with_a_warning(tmp_path, capsys, a):
    """Few steps that have too much rather than too little: on the embedded pipeline that made pictures worse."""
    report = {
        "a": a,
        "last": 0.1,
        "distance": {"synchronous": 2.0, "calibrated": 1.0},
        "cost": {"evaluations": 9, "of the teacher": 4, "seconds": 1.0},
        "facts": {"teacher_steps": 64},
    }
    _say(Calibrated(Curve([(0.3, 0.1), (0.5, a)]), report), tmp_path)
    assert ("Warning" in capsys.readouterr().err) == (a < 0)
