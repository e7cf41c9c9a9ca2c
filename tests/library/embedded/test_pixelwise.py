"""The measurement of pixel-wise denoising on the embedded pipeline."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from asyncdiff.tpm.cli import main
from asyncdiff.tpm.embedded import pixelwise as study
from asyncdiff.tpm.embedded.pixelwise import Arm


def test_the_sweep_has_the_controls_and_every_setting():
    arms = study.sweep(5)
    assert arms[0] == Arm("synchronous", 5)
    assert {arm.kind for arm in arms if (arm.strength, arm.curve) == (0.5, "quadratic")} == set(study.ASYNCHRONOUS)
    for strength, curve in [(0.3, "quadratic"), (0.7, "quadratic"), (0.5, "piecewise"), (0.5, "exponential")]:
        assert {Arm("concave", 5, strength, curve), Arm("dynamic", 5, strength, curve)} <= set(arms)
    assert len(arms) == len(set(arms)) == 13


def test_true_regions_lie_on_the_objects():
    scenes = study.two_object_scenes(6)
    assert len(scenes) == 6
    assert all(len(scene.items) == 2 and scene.held_out for scene in scenes)
    for scene, masks in zip(scenes, study.true_regions(scenes), strict=True):
        for item, mask in zip(scene.items, masks, strict=True):
            rows, columns = mask.nonzero().float().mean(0).tolist()
            assert abs(8 * (rows + 0.5) - item.y) < 6
            assert abs(8 * (columns + 0.5) - item.x) < 6


def test_differences_are_paired_and_to_the_same_setting():
    zero = {"alignment": np.zeros(4), "noise": np.zeros(4)}
    base, other = np.array([0.5, 0.6, 0.7, 0.8]), np.array([0.6, 0.7, 0.8, 0.9])
    arms = {
        Arm("synchronous", 5): {"attributes": base, **zero},
        Arm("concave", 5, 0.5): {"attributes": other, **zero},
        Arm("concave", 5, 0.7): {"attributes": base, **zero},
        Arm("dynamic", 5, 0.5): {"attributes": base, **zero},
    }
    rows = study.report(arms)
    assert rows[1]["attributes"]["to_synchronous"] == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})
    assert rows[3]["attributes"]["to_concave"]["mean"] == pytest.approx(-0.1)
    assert "to_synchronous" not in rows[0]["attributes"]
    assert "to_concave" not in rows[1]["attributes"]
    text = study.markdown(rows)
    assert "| 5 | dynamic | 0.5 | quadratic | 65.00 [55.00, 75.00] |" in text
    assert "−10.00 [−10.00, −10.00]" in text
    assert study.chart(rows, "four captions").width > 600


def test_the_command_measures_resumes_and_writes_everything(tmp_path, capsys, monkeypatch):
    out = tmp_path / "found.json"
    kinds = [Arm("synchronous", 1), Arm("concave", 1, 0.5), Arm("static", 1, 0.5), Arm("dynamic", 1, 0.5)]
    monkeypatch.setattr(study, "sweep", lambda steps: kinds)
    fake = {"attributes": [0.25, 0.75], "alignment": [0.5, 0.5], "detail": [0, 0], "noise": [0, 0]}
    out.with_suffix(".partial.json").write_text(json.dumps({kinds[1].key: fake}))
    assert main(["pixelwise-evaluate", "--prompts", "2", "--steps", "1", "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    assert [row["kind"] for row in document["rows"]] == ["synchronous", "concave", "static", "dynamic"]
    assert document["rows"][1]["attributes"]["mean"]["mean"] == 0.5  # not drawn again
    assert 0 < document["static_mask_overlap"]["1"] < 1
    assert (tmp_path / "found.png").is_file()
    assert not out.with_suffix(".partial.json").exists()
    assert "| 1 | static | 0.5 | quadratic |" in capsys.readouterr().out
    assert main(["pixelwise-evaluate", "--out", "found.txt"]) == 2
    assert "must end in .json" in capsys.readouterr().err


def test_arms_start_from_the_same_noise_and_differ():
    from asyncdiff.tpm.cli.shared import models
    from asyncdiff.tpm.embedded.judge import Judge

    model = models.locate("embedded")
    studio, judge = models.open_studio(model, None, "cpu"), Judge.load(model.folder)
    bench = study.Bench(studio, judge, study.two_object_scenes(2), 3.0)
    plain = bench._draw(Arm("synchronous", 2))
    assert torch.equal(studio.render(bench._prompts, [0, 1], steps=2, guidance=3.0).images, plain)
    drawn = [bench._draw(Arm(kind, 2, 0.7)) for kind in study.ASYNCHRONOUS]
    assert all((image - plain).abs().max() > 0.01 for image in drawn)
    assert all(not torch.equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])
