"""The measurement of pixel-wise denoising on the embedded pipeline."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from asyncdiff.tpm.cli import main
from asyncdiff.tpm.embedded import pixelwise as study
from asyncdiff.tpm.embedded import pixelwise_report as reports
from asyncdiff.tpm.embedded.evaluate import evaluation_scenes
from asyncdiff.tpm.embedded.judges import load_judge
from asyncdiff.tpm.embedded.pixelwise import Arm
from asyncdiff.tpm.embedded.render import render
from asyncdiff.tpm.embedded.worlds import EASY, HARD
from support.detections import perfect_detections
from support.paths import EMBEDDED


@pytest.fixture(scope="module")
def judge():
    return load_judge(EMBEDDED)


def test_the_sweep_has_the_controls_and_every_setting():
    arms = study.sweep(5)
    assert arms[0] == Arm("synchronous", 5)
    assert {arm.kind for arm in arms if (arm.strength, arm.curve) == (0.5, "quadratic")} == set(study.ASYNCHRONOUS)
    others = [(0.3, "quadratic"), (0.7, "quadratic"), (0.5, "piecewise"), (0.5, "exponential")]
    for strength, curve in others:
        assert {Arm(kind, 5, strength, curve) for kind in ("concave", "dynamic", "true")} <= set(arms)
    assert Arm("dynamic", 5, 0.5, threshold=1.5) in arms
    assert len(arms) == len(set(arms)) == len({arm.key for arm in arms}) == 18
    assert study.sweep(5, study.Setting(threshold=1.5))[3] == Arm("static", 5, 0.5, threshold=1.5)


def test_a_policy_lies_on_top_of_every_arm_of_euler_but_the_static_one():
    arms = study.with_policy([*study.core(8), Arm("synchronous", 8, solver="dpmpp_2m")], "constant")
    assert [(arm.kind, arm.policy) for arm in arms] == [
        (kind, "constant") for kind in ("synchronous", "concave", "dynamic", "true")
    ]
    assert arms[2].key == "8 steps: dynamic, constant, quadratic, k = 0.5"


@pytest.mark.parametrize("world", [EASY, HARD], ids=["easy", "hard"])
def test_true_regions_lie_on_the_objects(world, judge):
    scenes = evaluation_scenes(12, 3, world=world, objects=world.objects)
    prompts = [world.canonical_caption(scene) for scene in scenes]
    sight = judge.look(render(scenes)[0]) if world is EASY else perfect_detections(*scenes)
    regions = study.regions_of(sight, prompts)
    assert regions.shape == (12, world.objects, 16, 16)
    far = [
        max(abs(8 * (mask.nonzero().float().mean(0) + 0.5) - torch.tensor([item.y, item.x])))
        for scene, masks in zip(scenes, regions, strict=True)
        for item, mask in zip(scene.items, masks, strict=True)
    ]
    assert sum(distance < 10 for distance in far) >= len(far) - 1
    assert study.overlap(regions, regions) == 1
    assert study.overlap(~regions, regions) == 0


def test_an_object_that_is_missing_has_no_region_and_does_not_count():
    scene = evaluation_scenes(1, 3, world=HARD, objects=2)[0]
    alone = replace(scene, items=scene.items[:1])
    regions = study.regions_of(perfect_detections(alone), [HARD.canonical_caption(scene)])
    assert regions[0, 0].any()
    assert not regions[0, 1].any()
    assert study.overlap(regions, regions) == 1


def test_differences_are_paired_and_to_the_same_setting():
    zero = {"alignment": np.zeros(4), "noise": np.zeros(4), "detail": np.zeros(4), "all right": np.zeros(4)}
    base, other = np.array([0.5, 0.6, 0.7, 0.8]), np.array([0.6, 0.7, 0.8, 0.9])
    arms = {
        Arm("synchronous", 5): {"attributes": base, **zero},
        Arm("concave", 5, 0.5): {"attributes": other, **zero},
        Arm("concave", 5, 0.7): {"attributes": base, **zero},
        Arm("dynamic", 5, 0.5, threshold=1.5): {"attributes": base, **zero},
        Arm("synchronous", 5, solver="dpmpp_2m"): {"attributes": base + 0.05, **zero},
        Arm("synchronous", 5, policy="top"): {"attributes": base + 0.02, **zero},
        Arm("dynamic", 5, 0.5, policy="top"): {"attributes": base + 0.03, **zero},
    }
    rows = reports.report(arms)
    assert rows[1]["attributes"]["to_synchronous"] == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})
    assert rows[3]["attributes"]["to_concave"]["mean"] == pytest.approx(-0.1)
    assert "to_synchronous" not in rows[0]["attributes"]
    assert "to_concave" not in rows[1]["attributes"]
    assert rows[1]["attributes"]["to_best"]["mean"] == pytest.approx(0.05)
    assert "to_best" not in rows[4]["attributes"]  # it is the best one
    assert rows[6]["attributes"]["to_policy"]["mean"] == pytest.approx(0.01)
    assert "to_policy" not in rows[5]["attributes"]
    text = reports.markdown(rows)
    assert "| 5 | dynamic, threshold 1.5 | 0.5 | quadratic | 65.00 [55.00, 75.00] |" in text
    assert "| 5 | synchronous, dpmpp_2m | | | 70.00" in text.replace("|  |", "| |").replace("|  |", "| |")
    assert "−10.00 [−10.00, −10.00]" in text
    assert reports.chart(rows, "Slowing down", "four captions").width > 600


ABOUT = {"model": "tiny-sd35", "prompts": 2, "captions_seed": 1234, "objects": 2, "cfg": 3.0, "policies": {}}


def test_the_command_measures_resumes_and_writes_everything(tmp_path, capsys, monkeypatch):
    out = tmp_path / "found.json"
    kinds = [Arm("synchronous", 1), Arm("concave", 1, 0.5), Arm("static", 1, 0.5), Arm("dynamic", 1, 0.5)]
    monkeypatch.setattr(study, "core", lambda steps, setting: kinds)
    fake = {"attributes": [0.25, 1.0], "alignment": [0.5, 0.5], "detail": [0, 0], "noise": [0, 0]}
    started = {"about": ABOUT, "arms": {kinds[1].key: fake}}
    out.with_suffix(".partial.json").write_text(json.dumps(started))
    command = ["pixelwise-evaluate", "--prompts", "2", "--steps", "1", "--out", str(out)]
    assert main([*command, "--captions-seed", "7"]) == 2
    assert "holds a measurement that was stopped, with other options" in capsys.readouterr().err
    assert main(command) == 0
    document = json.loads(out.read_text())
    assert [row["kind"] for row in document["rows"]] == ["synchronous", "concave", "static", "dynamic"]
    assert document["rows"][1]["attributes"]["mean"]["mean"] == 0.625  # not drawn again
    assert document["rows"][1]["all right"]["mean"]["mean"] == 0.5
    assert 0 <= document["static_mask_overlap"]["1"] < 1
    assert (tmp_path / "found.png").is_file()
    assert not out.with_suffix(".partial.json").exists()
    assert "| 1 | static | 0.5 | quadratic |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "found.txt"], "must end in .json"),
        (["--objects", "3"], "at most 2 objects, not 3"),
        (["--steps", "8", "8"], "8"),
        (["--also-solver", "heun"], "heun"),
        (["--policy", "nothing-like-it"], "nothing-like-it"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(options, words, capsys, monkeypatch, tmp_path):
    from asyncdiff.tpm.cli.shared import models

    monkeypatch.setattr(models, "open_studio", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.chdir(tmp_path)
    assert main(["pixelwise-evaluate", *options]) == 2
    assert words in capsys.readouterr().err


def test_arms_start_from_the_same_noise_and_differ(judge):
    from asyncdiff.tpm.cli.shared import models
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming

    studio = models.open_studio(models.locate("embedded"), None, "cpu")
    prompts = [EASY.canonical_caption(scene) for scene in evaluation_scenes(2, objects=2)]
    bench = study.Bench({"euler": studio}, judge, prompts, 3.0, {"top": (Constant(0.5), Retiming())})
    plain = bench.draw(Arm("synchronous", 2))
    assert torch.equal(studio.render(prompts, [0, 1], steps=2, guidance=3.0).images, plain)
    arms = [Arm(kind, 2, 0.7) for kind in study.ASYNCHRONOUS]
    drawn = [bench.draw(arm) for arm in arms + study.with_policy([Arm("synchronous", 2), arms[0], arms[1]], "top")]
    assert all((image - plain).abs().max() > 0.01 for image in drawn)
    assert all(not torch.equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])
