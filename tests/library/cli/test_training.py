"""The commands search and evaluate, on the embedded pipeline: what they write, what they refuse, how they go on."""

import json

import pytest

pytest.importorskip("diffusers")

import numpy as np
import torch
from PIL import Image

from asyncdiff.tpm.cli import main
from asyncdiff.tpm.cli.training.evaluate import true_scenes
from asyncdiff.tpm.cli.training.search import split
from asyncdiff.tpm.embedded.captions import scene_of
from asyncdiff.tpm.embedded.judge import Judge
from asyncdiff.tpm.embedded.reality import JudgeFeatures
from asyncdiff.tpm.embedded.render import render
from asyncdiff.tpm.embedded.worlds import EASY, held_out_captions
from asyncdiff.tpm.errors import AsyncDiffError
from asyncdiff.tpm.files import EMBEDDED_FOLDER
from asyncdiff.tpm.policies import load_policy, solver_for
from asyncdiff.tpm.training.compare.energy_distance import EnergyDistance

SEARCH = (
    "search --steps 3 --bound 0.1 --candidate-prompts 2 --held-out-prompts 2 --generations 1 --population 2 --elite 1"
    " --knots 2 --tails 0 --batch 2 --no-progress"
)
EVALUATE = "evaluate --steps 3 --more-steps --count 2 --gamma 0 1 --variant tail --batch 2 --pictures 1 --no-progress"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    out = tmp_path_factory.mktemp("command") / "search"
    assert main([*SEARCH.split(), "--out", str(out)]) == 0
    return out


def test_search_saves_a_curve_and_what_it_is_worth(searched):
    curve = load_policy(searched / "curve.json", "sd3")
    assert len(curve.knots) == 2
    assert curve.bound == 0.1
    assert curve.about["retiming"] == {"tail_sync": 0, "velocity_coupling": 0.0}
    assert curve.about["sampling"]["guidance"] == 3.0
    report = json.loads((searched / "search.json").read_text())
    assert [row["D"] for row in report["constants"]] == [0.0, 0.1]
    assert len(report["generations"]) == 1
    assert {"alignment", "detail fit"} <= set(report["std"])


def test_a_finished_search_is_not_overwritten_and_can_be_prolonged(searched, capsys):
    assert main([*SEARCH.split(), "--out", str(searched)]) == 2
    assert "--resume" in capsys.readouterr().err
    changed = SEARCH.replace("--bound 0.1", "--bound 0.2").split()
    assert main([*changed, "--out", str(searched), "--resume"]) == 2
    assert "bound was 0.1 and is now 0.2" in capsys.readouterr().err


def test_evaluate_writes_tables_and_figures(searched, tmp_path, capsys):
    command = [*EVALUATE.split(), "--policy", f"curve={searched / 'curve.json'}", "--policy", "half=constant:0.5"]
    command += ["--against", "half", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "curve, tail_sync = 1" in capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    rows = {row["name"]: row for row in document["arms"]}
    assert list(rows) == [
        "synchronous",
        "synchronous, other noise",
        "curve",
        "curve, tail_sync = 1",
        "half",
        "half, tail_sync = 1",
    ]
    assert rows["half"]["D"] == pytest.approx([0.0, 0.5, 0.5])
    assert rows["half, tail_sync = 1"]["D"] == pytest.approx([0.0, 0.5, 0.0])
    assert {"alignment", "detail fit", "energy distance"} <= set(rows["half"]["metrics"])
    assert set(rows["curve"]["gain"]["differences"]) == {"synchronous", "half"}
    assert Image.open(tmp_path / "out" / "figure-5.png").width > 600
    assert main(command) == 2
    assert "--resume" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "arms").iterdir()}
    assert main([*command, "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "arms").iterdir()} == before


def test_true_pictures_are_nearer_to_true_pictures_than_disturbed_ones():
    judge = Judge.load(EMBEDDED_FOLDER)
    prompts, rng = held_out_captions(96, seed=1), np.random.default_rng(2)
    judge_features = JudgeFeatures(judge, true_scenes(prompts, EASY))
    images = render([scene_of(prompt, rng) for prompt in prompts])[0]
    generator = torch.Generator().manual_seed(0)
    sets = {
        "true": images,
        "noisy": (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1),
        "blurred": torch.nn.functional.avg_pool2d(images, 7, 1, 3),
        "mixed": (images + images.roll(1, 0)) / 2,
    }
    features = {name: judge_features(pictures) for name, pictures in sets.items()}
    distance = EnergyDistance(judge_features.real.unflatten(0, (96, -1)))
    assert abs(distance.to(features["true"])) < 0.02
    tables = {name: distance.table(rows) for name, rows in features.items()}
    for name in ("noisy", "blurred", "mixed"):
        assert distance.compare(tables, name)[1]["true"].low > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (f"{EVALUATE} --policy constant:0.5", "NAME=POLICY"),
        (f"{EVALUATE} --policy a=nothing.json", "neither a file nor a shipped policy"),
        (f"{EVALUATE} --prompts nothing.txt", "no file nothing.txt"),
        (f"{EVALUATE} --prompts nothing.txt --captions-seed 3", "leave it out with other prompts"),
        (f"{SEARCH} --prompts nothing.txt", "no file nothing.txt"),
        (f"{SEARCH} --elite 2", "larger population"),
        (f"{SEARCH} --tails 2", "no action is left"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path, capsys, arguments, words):
    assert main([*arguments.split(), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_prompts_are_split_into_some_to_search_on_and_some_to_judge_on():
    prompts = [str(n) for n in range(10)]
    assert split(prompts, None, 3) == (prompts[:7], prompts[7:])
    assert split(prompts, None, 100) == (prompts[:5], prompts[5:])
    assert split(prompts, ["other"], 3) == (prompts, ["other"])
    with pytest.raises(AsyncDiffError, match="two or more"):
        split(["one"], None, 3)


def test_every_solver_is_evaluated_and_a_policy_of_another_one_is_said(tmp_path, capsys):
    command = EVALUATE.replace("--steps 3", "--steps 4").replace("--variant tail", "--variant").split()
    command += ["--solver", "heun", "--policy", "curve=tiny-sd35-curve", "--policy", "any=constant:0.3"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert error.count("Warning: ") == 1
    assert "tiny-sd35-curve was made for the solver euler, this run uses heun" in error
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert document["about"]["sampling"]["solver"] == "heun"
    assert [row["evaluations"] for row in document["arms"]] == [7, 7, 7, 7]
    assert document["arms"][2]["D"][-1] == 0.0  # the curve's own tail


def test_search_writes_the_solver(tmp_path):
    assert main([*SEARCH.split(), "--solver", "dpmpp_2m", "--out", str(tmp_path)]) == 0
    for name in ("curve.json", "constant.json"):
        assert solver_for(load_policy(tmp_path / name)) == "dpmpp_2m"
    assert json.loads((tmp_path / "search.json").read_text())["facts"]["solver"] == "dpmpp_2m"


def test_training_writes_the_solver(tmp_path):
    command = "train --iterations 1 --steps 3 --group 2 --prompts-per-iteration 1 --minibatch 2 --probe-every 0"
    command += " --solver res_multistep --no-progress"
    assert main([*command.split(), "--out", str(tmp_path)]) == 0
    assert solver_for(load_policy(tmp_path / "tpm.safetensors")) == "res_multistep"


@pytest.mark.parametrize("own", [True, False])
def test_other_captions_have_an_energy_distance_too(tmp_path, own):
    """Anybody can replicate on captions that nobody used."""
    (tmp_path / "own.txt").write_text("a red circle\na small blue star above a large green square")
    given = ["--prompts", str(tmp_path / "own.txt")] if own else ["--captions-seed", "77"]
    command = [*EVALUATE.replace("--variant tail", "--variant").split(), "--policy", "half=constant:0.5", *given]
    assert main([*command, "--size", "64", "--out", str(tmp_path / "out")]) == 0
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert "energy distance" in document["arms"][2]["metrics"]
    apart = ["objects", "background", "detail", "detail error"]
    assert list(document["arms"][2]["apart"]) == (apart if own else [*apart, "object mse"])
