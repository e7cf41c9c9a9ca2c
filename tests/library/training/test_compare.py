"""Evaluation: paired arms, honest intervals, nothing rendered twice, and tables that say what was measured."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from asyncdiff.tpm.policies import Constant, Curve, Learned, retiming_of
from asyncdiff.tpm.policies.checkpoint import Card
from asyncdiff.tpm.policies.network import TPM, TPMConfig
from asyncdiff.tpm.retiming.settings import Retiming
from asyncdiff.tpm.training.compare.arms import OTHER_NOISE, SYNCHRONOUS, arms_of, baselines
from asyncdiff.tpm.training.compare.energy_distance import EnergyDistance
from asyncdiff.tpm.training.compare.evaluate import Evaluation, EvaluationError
from asyncdiff.tpm.training.compare.measure import Arm, MeasureError, Measurer
from asyncdiff.tpm.training.compare.tables import save_tables
from asyncdiff.tpm.training.distributed import Processes
from asyncdiff.tpm.training.resume import ResumeError
from support.toy import ToyStudio, closeness, wanted

STEPS = 6
PROMPTS = [f"prompt {n}" for n in range(22)]
SMALL = {"width": 16, "heads": 2, "layers": 1, "patch": 2, "grid": 2, "readout_width": 16, "time_features": 8}


def best_curve():
    grid = ToyStudio().sigma_grid(STEPS)
    knots = [(sigma, float(d)) for sigma, d in zip(grid[1:-1], wanted(STEPS)[1:], strict=True)]
    return Curve(knots, about={"retiming": {"tail_sync": 1}})


def arms():
    few = {"steps": STEPS, "gammas": (0.0, 1.0, 2.0)}
    return [
        *baselines(STEPS, [2 * STEPS]),
        *arms_of("best", best_curve(), **few),
        *arms_of("constant", Constant(0.1), **few, variants=()),
    ]


def make(folder, scorer=None, studio=None, processes=None, batch=4, **changes):
    measurer = Measurer(studio or ToyStudio(), scorer or closeness(STEPS, 0.3), batch, processes or Processes(), keep=2)
    return Evaluation(**{"measurer": measurer, "prompts": PROMPTS, "folder": folder, "save_seconds": 0.0} | changes)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    made = make(tmp_path_factory.mktemp("evaluation")).run(arms(), ["constant"])
    return {result.arm.name: result for result in made}


def test_the_arms_are_those_of_a_replication():
    names = [arm.name for arm in arms()]
    assert names == [
        "synchronous",
        "synchronous, other noise",
        "synchronous, 12 steps",
        "best",
        "best, γ = 2",
        "best, tail_sync = 0",
        "best, p = 1",
        "constant",
        "constant, γ = 2",
    ]
    by_name = {arm.name: arm for arm in arms()}
    assert by_name["best"].retiming == Retiming(tail_sync=1)
    assert by_name["best, γ = 2"].retiming == Retiming(gamma=2.0, tail_sync=1)
    assert by_name["best, p = 1"].retiming == Retiming(tail_sync=1, velocity_coupling=1.0)


def test_a_tpm_is_applied_as_it_was_trained_and_read_in_two_ways():
    card = Card("sd3", 1.0, about={"training": {"tail_sync": 2, "velocity_coupling": 0.0, "group": 4}})
    policy = Learned(TPM(TPMConfig("sd3", 4, 8, 8, **SMALL)), card=card)
    assert retiming_of(policy) == Retiming(tail_sync=2)
    made = {arm.name: arm for arm in arms_of("tpm", policy, STEPS, (1.0,))}
    assert list(made) == ["tpm", "tpm, tail_sync = 0", "tpm, p = 1", "tpm, mean"]
    assert made["tpm"].policy.readout == "mode"
    assert made["tpm, mean"].policy.readout == "mean"


def test_the_best_policy_wins_and_the_other_noise_does_not(results):
    gain = {name: result.gain.differences[SYNCHRONOUS] for name, result in results.items() if name != SYNCHRONOUS}
    assert gain["best"].low > 0
    assert gain["best, γ = 2"].high < gain["best"].low
    assert gain[OTHER_NOISE].low < 0 < gain[OTHER_NOISE].high
    assert max(gain, key=lambda name: gain[name].mean) == "best"


def test_differences_are_paired(results):
    scores = {name: result.measured.scores["closeness"].double().numpy() for name, result in results.items()}
    best = results["best"].metrics["closeness"]
    assert best.mean == pytest.approx(scores["best"].mean())
    assert best.differences[SYNCHRONOUS].mean == pytest.approx((scores["best"] - scores[SYNCHRONOUS]).mean())
    assert best.differences["constant"].mean == pytest.approx((scores["best"] - scores["constant"]).mean())
    paired = best.differences[SYNCHRONOUS]
    unpaired = results[OTHER_NOISE].metrics["closeness"].differences[SYNCHRONOUS]
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 100


def test_mean_d_is_over_the_actions(results):
    expected = float(wanted(STEPS)[1:].mean())
    assert results["best"].mean_deviation == pytest.approx(expected, abs=1e-6)
    assert results["best, γ = 2"].mean_deviation == pytest.approx(2 * expected, abs=1e-6)
    assert results[SYNCHRONOUS].mean_deviation == 0
    row = results["best"].to_dict()
    assert row["D"] == pytest.approx(wanted(STEPS).tolist(), abs=1e-6)
    assert row["D_sd"] == pytest.approx([0.0] * STEPS, abs=1e-6)
    assert row["evaluations"] == STEPS


def test_finished_arms_are_not_rendered_again(tmp_path):
    make(tmp_path).run(arms()[:3])
    studio = ToyStudio()
    again = make(tmp_path, studio=studio).run(arms()[:4], resume=True)
    assert {name for name, _ in studio.calls} == {"curve"}
    fresh = make(tmp_path / "fresh").run(arms()[:4])
    assert _values(again) == _values(fresh)


def test_an_interrupted_arm_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, studio=Interrupted(6 + 6 + 4), batch=4).run(arms()[:4])
    studio = ToyStudio()
    resumed = make(tmp_path, studio=studio, batch=4).run(arms()[:4], resume=True)
    rendered = [name for name, _ in studio.calls]
    assert rendered[:2] == ["synchronous"] * 2  # 4 of the 6 batches of the third arm were saved
    assert set(rendered[2:]) == {"curve"}
    assert _values(resumed) == _values(make(tmp_path / "whole").run(arms()[:4]))


class Interrupted(ToyStudio):
    def __init__(self, calls):
        super().__init__()
        self.left = calls

    def render(self, *arguments, **options):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().render(*arguments, **options)


def _values(results):
    rows = [result.to_dict() for result in results]
    for row in rows:
        del row["seconds_per_image"]
    images = [result.measured.images.tolist() for result in results]
    return rows, images


def _member(rank, folder, store):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    made = make(folder, processes=Processes.current()).run(arms())
    if rank == 0:
        torch.save(_values(made), folder / "values.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.processes
def test_two_processes_measure_what_one_measures(tmp_path):
    mp.spawn(_member, (tmp_path, tmp_path / "store"), nprocs=2)
    assert torch.load(tmp_path / "values.pt") == _values(make(tmp_path / "one").run(arms()))


def test_changed_settings_are_noticed(tmp_path):
    make(tmp_path).run(arms()[:4])
    other = [*arms()[:3], Arm("best", STEPS, Constant(0.2))]
    with pytest.raises(ResumeError, match="policy was"):
        make(tmp_path).run(other, resume=True)
    for change in ({"seed": 7}, {"prompts": PROMPTS[:-1]}, {"studio": ToyStudio("other")}, {"metrics": {"a": "2"}}):
        with pytest.raises(ResumeError, match="and is now"):
            make(tmp_path, **change).run(arms()[:4], resume=True)


def test_other_weights_of_a_tpm_are_noticed(tmp_path):
    def policy(seed):
        torch.manual_seed(seed)
        return Learned(TPM(TPMConfig("sd3", 4, 8, 8, **SMALL)))

    first, same, other = ([*baselines(STEPS, []), Arm("tpm", STEPS, policy(n))] for n in (0, 0, 1))
    make(tmp_path).run(first)
    make(tmp_path).run(same, resume=True)
    with pytest.raises(ResumeError, match="weights was"):
        make(tmp_path).run(other, resume=True)


def test_a_damaged_arm_is_a_sentence(tmp_path):
    make(tmp_path).run(arms()[:2])
    file = next((tmp_path / "arms").glob("synchronous-*.pt"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ResumeError, match="damaged"):
        make(tmp_path).run(arms()[:2], resume=True)


def test_bad_input_is_a_sentence_before_hours_have_passed(tmp_path):
    with pytest.raises(EvaluationError, match="two prompts"):
        make(tmp_path, prompts=["one"])
    with pytest.raises(EvaluationError, match="Two arms"):
        make(tmp_path).run([*arms(), arms()[3]])
    with pytest.raises(EvaluationError, match="no arm 'nothing'"):
        make(tmp_path).run(arms(), ["nothing"])
    with pytest.raises(EvaluationError, match="no arm 'synchronous, other noise'"):
        make(tmp_path).run([arms()[0]])
    studio = ToyStudio()
    with pytest.raises(MeasureError, match="same score"):
        make(tmp_path, lambda images, prompts: {"same": torch.ones(len(images))}, studio).run(arms())
    assert {name for name, _ in studio.calls} == {"synchronous"}
    with pytest.raises(MeasureError, match="gave nan"):
        make(tmp_path, lambda images, prompts: {"x": torch.full((len(images),), float("nan"))}).run(arms())


def test_tables(tmp_path, results):
    files = save_tables(tmp_path, list(results.values()), PROMPTS, {"sampling": {}})
    assert [file.name for file in files] == ["evaluation.json", "evaluation.csv", "evaluation.md", "scores.csv"]
    document = json.loads(files[0].read_text())
    assert [row["name"] for row in document["arms"]] == list(results)
    rows = {row["name"]: row for row in csv.DictReader(files[1].open())}
    best = results["best"].metrics["closeness"]
    assert float(rows["best"]["closeness: mean"]) == best.mean
    assert float(rows["best"]["closeness: difference"]) == best.differences[SYNCHRONOUS].mean
    assert float(rows["best"]["closeness: low"]) == best.differences[SYNCHRONOUS].low
    text = files[2].read_text().splitlines()
    assert len(text) == len(results) + 4
    assert text[0].startswith("|  | closeness | noise gauge | gain | gain over constant | mean D |")
    assert all(line.count("|") == text[0].count("|") for line in text[: len(results) + 2])
    scores = list(csv.DictReader(files[3].open()))
    assert len(scores) == len(results) * len(PROMPTS)


# --- energy distance -----------------------------------------------------------------------------------------------


def test_energy_distance_of_gaussians_is_the_analytic_one():
    """For N(0, 1) and N(m, 1) in one dimension E|X − Y| is known in closed form."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3000, 1, generator=generator) for _ in range(2))
    shift = 1.0
    expected = 2 * _folded(shift, 2**0.5) - 2 * _folded(0.0, 2**0.5)
    assert EnergyDistance(y.unsqueeze(1)).to(x + shift) == pytest.approx(expected, rel=0.1)
    assert abs(EnergyDistance(y.unsqueeze(1)).to(x)) < 0.01


def test_the_mixture_of_prompts_adds_nothing_to_the_energy_distance():
    """Prompts far apart, images that are true of each: 0, however few true images there are of a prompt."""
    generator = torch.Generator().manual_seed(3)
    prompts = 20 * torch.randn(150, 1, 3, generator=generator)
    real, images = (prompts + torch.randn(150, count, 3, generator=generator) for count in (4, 1))
    assert abs(EnergyDistance(real).to(images[:, 0])) < 0.02
    assert EnergyDistance(real).to(images[:, 0] + 1.0) > 0.05  # the control


def _folded(mean, sd):
    """E|Z| of Z ~ N(mean, sd²)."""
    density = (2 / np.pi) ** 0.5 * sd * np.exp(-(mean**2) / (2 * sd**2))
    return density + mean * float(torch.erf(torch.tensor(mean / (sd * 2**0.5))))


def test_the_nearer_set_is_told_apart_and_a_set_from_itself_is_not():
    generator = torch.Generator().manual_seed(1)
    real, rows = (torch.randn(200, 4, generator=generator) for _ in range(2))
    sets = {"near": rows + 0.3, "far": rows + 0.8, "same": rows + 0.8}
    distance = EnergyDistance(real.unsqueeze(1))
    mean, differences = distance.compare({name: distance.table(rows) for name, rows in sets.items()}, "far")
    assert differences["near"].low > 0
    assert differences["same"].mean == differences["same"].low == differences["same"].high == 0
    assert mean - differences["near"].mean == pytest.approx(EnergyDistance(real.unsqueeze(1)).to(sets["near"]))


def test_two_images_have_finite_intervals():
    """A resample may hold one of them twice."""
    rows = torch.tensor([[0.0], [1.0]])
    distance = EnergyDistance((rows + 0.1).unsqueeze(1))
    mean, differences = distance.compare({"a": distance.table(rows), "b": distance.table(rows + 0.5)}, "a")
    assert all(np.isfinite([mean, differences["b"].mean, differences["b"].low, differences["b"].high]))


def test_the_energy_distance_is_in_the_table(tmp_path):
    def features(images):
        return images[:, 0, :STEPS, 0]

    real = 0.5 + wanted(STEPS).repeat(len(PROMPTS), 2, 1) / 4 + 0.01 * torch.randn(len(PROMPTS), 2, STEPS)
    evaluation = make(tmp_path, real=real)
    evaluation.measurer = replace(evaluation.measurer, features=features)
    made = {result.arm.name: result for result in evaluation.run(arms()[:4])}
    found = made["best"].metrics["energy distance"]
    assert found.mean < 0.02
    assert found.differences[SYNCHRONOUS].high < 0


def test_what_is_reported_apart_stands_behind_the_old_columns_and_counts_in_no_gain(tmp_path):
    def apart(images, prompts):
        return {"objects": images.mean((1, 2, 3)), "detail error": images[:, 0, 0, 0] - 2.0}

    plain = make(tmp_path / "plain").run(arms())
    evaluation = make(tmp_path / "apart")
    evaluation.measurer = replace(evaluation.measurer, apart=apart)
    results = evaluation.run(arms())
    for before, after in zip(plain, results, strict=True):
        assert before.gain == after.gain
        assert set(before.metrics) == set(after.metrics)
        assert before.apart == {}
        errors = after.measured.scores["detail error"]
        assert after.apart["detail error"].mean == pytest.approx(abs(float(errors.double().mean())))
    save_tables(tmp_path, results, PROMPTS, {})
    rows = list(csv.DictReader((tmp_path / "evaluation.csv").open()))
    columns = list(rows[0])
    assert columns[-1] == "images seen"
    assert columns.index("|detail − real|: mean") > columns.index("objects: high") > columns.index("D by step")
    assert {row["name"]: row["images seen"] for row in rows}["constant"] == "0"
    head = (tmp_path / "evaluation.md").read_text().splitlines()[0]
    assert head.endswith(r"| s/image | objects | \|detail − real\| | images seen |")
    with pytest.raises(ResumeError, match="apart"):
        make(tmp_path / "apart").run(arms(), resume=True)
