"""`asyncdiff score`: tables that interruptions do not lose, without any weights."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from asyncdiff.tpm.cli import main, score
from support.processes import launch


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "images"
    (made / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "sub/ç.png")):
        noise = np.random.default_rng(number).normal(0, 4 * number, (64, 64, 3))
        Image.fromarray((128 + noise).clip(0, 255).astype(np.uint8)).save(made / name)
    (made / "note.txt").write_text("not an image")
    return made


def run(folder, out, *options, metric=("residual-noise",)):
    return main(["score", str(folder), "--metric", *metric, "--out", str(out), "--no-progress", *map(str, options)])


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Counting:
    """A metric that counts what it sees, and stops where it is told to."""

    def __init__(self, stop_at=None):
        self.seen, self.stop_at = [], stop_at

    def score(self, pictures, prompts):
        if self.stop_at is not None and len(self.seen) >= self.stop_at:
            raise KeyboardInterrupt
        self.seen += prompts
        return torch.tensor([np.asarray(picture).std() for picture in pictures], dtype=torch.float32)


@pytest.fixture
def metric(monkeypatch):
    made = Counting()
    monkeypatch.setattr(score, "_open_judge", lambda: made)
    return made


def test_residual_noise_needs_no_weights(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "t.csv") == 0
    table = rows(tmp_path / "t.csv")
    assert [row["file"] for row in table] == ["a.png", "b.png", "sub/ç.png"]
    noise = [float(row["residual-noise"]) for row in table]
    assert noise[0] == 0
    assert noise[0] < noise[1] < noise[2]
    out = capsys.readouterr().out
    assert f"{np.mean(noise):.4f}" in out
    assert "95 % interval" in out


def test_json_holds_means_and_rows(folder, tmp_path):
    assert run(folder, tmp_path / "t.json") == 0
    document = json.loads((tmp_path / "t.json").read_text())
    mean = document["means"]["residual-noise"]
    assert mean["low"] <= mean["mean"] <= mean["high"]
    assert len(document["rows"]) == 3


def test_an_interruption_loses_nothing(folder, tmp_path, metric, capsys):
    (tmp_path / "p.txt").write_text("x\ny\nz\n")
    options = ("--prompts", tmp_path / "p.txt", "--batch", 1)
    metric.stop_at = 2
    assert run(folder, tmp_path / "t.csv", *options, metric=["embedded-judge"]) == 130
    assert [row["embedded-judge"] != "" for row in rows(tmp_path / "t.csv")] == [True, True, False]
    metric.stop_at = None
    assert run(folder, tmp_path / "t.csv", *options, metric=["embedded-judge"]) == 0
    assert metric.seen == ["x", "y", "z"]
    before = (tmp_path / "t.csv").read_bytes()
    assert run(folder, tmp_path / "t.csv", *options, metric=["embedded-judge"]) == 0
    assert metric.seen == ["x", "y", "z"]
    assert (tmp_path / "t.csv").read_bytes() == before
    assert not list(tmp_path.glob(".t.csv*"))


def test_changed_images_and_prompts_are_judged_again(folder, tmp_path, metric):
    (tmp_path / "p.txt").write_text("x\ny\nz")
    options = ("--prompts", tmp_path / "p.txt")
    run(folder, tmp_path / "t.csv", *options, metric=["embedded-judge"])
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    (tmp_path / "p.txt").write_text("x\nY\nz")
    run(folder, tmp_path / "t.csv", *options, metric=["embedded-judge"])
    assert metric.seen == ["x", "y", "z", "x", "Y"]


@pytest.mark.parametrize("name", ["t.csv", "t.json"])
def test_other_weights_or_another_precision_do_not_mix_with_what_is_there(name, folder, tmp_path, metric, monkeypatch):
    weights, out, seen = tmp_path / "rewards", tmp_path / name, []
    opener = lambda name, folder, *, words, device, dtype: seen.append(dtype) or metric  # noqa: E731
    monkeypatch.setattr(score, "open_metric", opener)
    weights.mkdir()
    for part in ("PickScore_v1.safetensors", "vocab.json", "merges.txt"):
        (weights / part).write_text("one")
    (tmp_path / "p.txt").write_text("x")
    options = ("--prompts", tmp_path / "p.txt", "--batch", 1, "--weights", weights)
    metric.stop_at = 2
    assert run(folder, out, *options, metric=["pick-score"]) == 130
    metric.stop_at, before = None, out.read_bytes()
    for part in ("PickScore_v1.safetensors", "merges.txt"):
        (weights / part).write_text("two")
        assert run(folder, out, *options, metric=["pick-score"]) == 2
        (weights / part).write_text("one")
    assert run(folder, out, *options, "--dtype", "float16", metric=["pick-score"]) == 2
    assert out.read_bytes() == before
    assert seen == ["float32"]
    assert run(folder, out, *options, metric=["pick-score"]) == 0
    assert metric.seen == ["x"] * 3


def test_a_table_that_does_not_say_its_weights_is_not_continued(folder, tmp_path, metric, capsys):
    (tmp_path / "p.txt").write_text("x")
    options = ("--prompts", tmp_path / "p.txt")
    run(folder, tmp_path / "t.csv", *options, metric=["embedded-judge"])
    kept = [",".join(line.split(",")[:4]) for line in (tmp_path / "t.csv").read_text().splitlines()]
    (tmp_path / "t.csv").write_text("\n".join(kept))
    capsys.readouterr()
    assert run(folder, tmp_path / "t.csv", *options, metric=["embedded-judge"]) == 2
    assert "has embedded-judge scores from other weights" in capsys.readouterr().err
    (tmp_path / "p.txt").write_text("y")  # no score is left to mix with
    assert run(folder, tmp_path / "t.csv", *options, metric=["embedded-judge"]) == 0


def test_two_metrics_give_a_composite_and_keep_their_columns(folder, tmp_path, metric, capsys):
    (tmp_path / "p.json").write_text(json.dumps({"b.png": "same", "a.png": "same"}))
    options = ("--prompts", tmp_path / "p.json")
    assert run(folder, tmp_path / "t.csv", *options, metric=["residual-noise", "embedded-judge"]) == 0
    table = rows(tmp_path / "t.csv")
    assert [row["file"] for row in table] == ["b.png", "a.png"]
    columns = ["file", "prompt", "digest", "residual-noise", "embedded-judge", "R", "embedded-judge weights"]
    assert list(table[0]) == columns
    assert float(table[0]["R"]) == pytest.approx(0, abs=1e-6)  # noisier, and the stand-in judge likes that
    assert "Highest R" in capsys.readouterr().out


def test_per_prompt_groups(folder, tmp_path, metric):
    (tmp_path / "p.txt").write_text("x\ny\nz")
    options = ("--prompts", tmp_path / "p.txt", "--per-prompt")
    assert run(folder, tmp_path / "t.csv", *options, metric=["residual-noise", "embedded-judge"]) == 0
    assert [float(row["R"]) for row in rows(tmp_path / "t.csv")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (("p.txt", "x\ny"), "2 prompts for 3 images"),
        (("p.csv", "file,prompt\nnone.png,x\n"), "not in"),
        (("p.csv", "name,text\na.png,x\n"), "no column named file"),
        (("p.csv", "file,prompt\na.png,x\na.png,y\n"), "twice"),
        (("p.json", "{"), "not valid JSON"),
        (("p.json", '{"a.png": 3}'), "not text"),
        (("p.json", "{}"), "no images"),
    ],
)
def test_prompts_that_do_not_fit(prompts, words, folder, tmp_path, capsys):
    (tmp_path / prompts[0]).write_text(prompts[1])
    assert run(folder, tmp_path / "t.csv", "--prompts", tmp_path / prompts[0]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()


def test_what_is_missing_is_said_before_anything_is_loaded(folder, tmp_path, capsys):
    assert run(tmp_path / "nowhere", tmp_path / "t.csv") == 2
    assert "There is no folder" in capsys.readouterr().err
    assert run(folder, tmp_path / "t.csv", metric=["pick-score"]) == 2
    assert "give --prompts" in capsys.readouterr().err
    (tmp_path / "p.txt").write_text("x")
    options = ("--prompts", tmp_path / "p.txt")
    assert run(folder, tmp_path / "t.csv", *options, metric=["pick-score"]) == 2
    assert "--weights" in capsys.readouterr().err
    assert run(folder, tmp_path / "t.csv", *options, "--weights", tmp_path, metric=["pick-score"]) == 2
    assert "huggingface.co/yuvalkirstain/PickScore_v1" in capsys.readouterr().err
    assert run(folder, tmp_path / "t.txt") == 2
    assert "must end in .csv or .json" in capsys.readouterr().err


def test_files_that_are_not_ours_are_not_overwritten(folder, tmp_path, capsys):
    for name, text in (("t.csv", "a,b\n1,2\n"), ("t.json", "[]"), ("u.csv", "file,prompt,digest\nelse.png,,1\n")):
        (tmp_path / name).write_text(text)
        assert run(folder, tmp_path / name) == 2
        assert "choose another --out" in capsys.readouterr().err or name == "t.json"
        assert (tmp_path / name).read_text() == text


def test_a_broken_image_stops_with_its_name_and_keeps_the_rest(folder, tmp_path, capsys):
    (folder / "b.png").write_bytes(b"no")
    assert run(folder, tmp_path / "t.csv", "--batch", 1) == 2
    assert "b.png cannot be read as an image" in capsys.readouterr().err
    assert rows(tmp_path / "t.csv")[0]["residual-noise"] == "0.0"


@pytest.mark.processes
def test_two_processes_write_the_table_of_one(folder, tmp_path):
    assert run(folder, tmp_path / "alone.csv") == 0
    arguments = ["score", folder, "--metric", "residual-noise", "--out", tmp_path / "several.csv", "--batch", 1]
    assert launch(*arguments, "--no-progress") == [0, 0]
    assert (tmp_path / "several.csv").read_text() == (tmp_path / "alone.csv").read_text()


@pytest.mark.processes
def test_an_image_that_one_process_cannot_read_stops_both(folder, tmp_path):
    (folder / "sub" / "ç.png").write_bytes(b"not an image")
    arguments = ["score", folder, "--metric", "residual-noise", "--out", tmp_path / "several.csv", "--batch", 1]
    assert launch(*arguments, "--no-progress") == [2, 2]
    assert len([row for row in rows(tmp_path / "several.csv") if row["residual-noise"]]) == 2, "what was found is kept"
