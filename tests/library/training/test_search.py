"""RL-free search: it finds what is there, honestly, and goes on after an interruption as if nothing had happened."""

import json
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp

from asyncdiff.tpm.errors import PolicyError
from asyncdiff.tpm.policies import Constant, load_policy, retiming_of
from asyncdiff.tpm.retiming.foretold import rehearse
from asyncdiff.tpm.training.compare.measure import Arm, GainScale, MeasureError, Measurer
from asyncdiff.tpm.training.distributed import Processes
from asyncdiff.tpm.training.prompts import PromptOrder
from asyncdiff.tpm.training.resume import ResumeError
from asyncdiff.tpm.training.search.cross_entropy import Belief, Candidate, knots_in_log_snr
from asyncdiff.tpm.training.search.plan import SearchError, SearchPlan
from asyncdiff.tpm.training.search.search import CURVE, REPORT, STATE, Search
from support.toy import ToyStudio, closeness, wanted

STEPS = 6
PROMPTS = [f"prompt {n}" for n in range(40)]
HELD_OUT = [f"held out {n}" for n in range(12)]
PLAN = SearchPlan(steps=STEPS, prompts=6, held_out=8, generations=12, population=24, elite=5, tails=(0, 1), seed=3)


def make(folder, plan=PLAN, scorer=None, studio=None, batch=4, processes=None, **changes):
    measurer = Measurer(studio or ToyStudio(), scorer or closeness(plan.steps), batch, processes or Processes())
    arguments = {
        "measurer": measurer,
        "prompts": PromptOrder(PROMPTS, 1),
        "held_out": HELD_OUT,
        "plan": plan,
        "folder": folder,
    }
    return Search(**arguments | changes)


def report_of(folder):
    return json.loads((folder / REPORT).read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    records = []
    found = make(folder, on_record=records.append).run()
    return folder, found, records


def test_it_finds_the_best_curve_and_the_tail(done):
    folder, found, _ = done
    applied = found.curve.about["retiming"]
    assert applied["tail_sync"] == 1
    grid = ToyStudio().sigma_grid(STEPS)
    trace = rehearse(found.curve, Candidate((0.0,), 1).retiming, grid)
    assert trace.deviation == pytest.approx(wanted(STEPS).tolist(), abs=0.12)
    loaded = load_policy(folder / CURVE, "sd3")
    assert loaded == found.curve


def test_the_report_says_what_was_compared_and_how_much_better_it_is(done):
    folder, found, _ = done
    report = report_of(folder)
    gains = {(row["D"], row["tail_sync"]): row["gain"] for row in report["constants"]}
    plain = {d: gain for (d, tail), gain in gains.items() if tail == 0}
    assert plain[0.0] == 0
    assert set(plain) == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}
    assert plain[0.1] > 0 > plain[0.5]
    best = sorted((d for d in plain if d), key=plain.get, reverse=True)[:3]
    assert {d for d, tail in gains if tail == 1} == set(best)
    assert (found.constant.deviation, retiming_of(found.constant).tail_sync) == max(gains, key=gains.get)
    names = [row["name"] for row in report["held_out"]]
    assert names[:2] == ["synchronous", found.constant.name]
    assert len(names) == 5
    assert report["held_out"][0]["gain"] == 0
    winner = report["winner"]
    assert winner["gain"] == max(row["gain"] for row in report["held_out"][2:])
    assert winner["over_constant"]["low"] > 0
    constant = report["held_out"][1]["gain"]
    assert winner["over_constant"]["mean"] == pytest.approx(winner["gain"] - constant)
    assert "elite agrees" in report["stopped"] or "12 generations" in report["stopped"]


def test_every_step_is_reported_once(done):
    _, _, records = done
    stages = [record["stage"] for record in records]
    assert stages[:9] == ["constants"] * 9
    assert set(stages[9:]) == {"generation"}
    assert [record["generation"] for record in records[9:]] == list(range(1, len(records) - 8))


def test_held_out_prompts_and_noises_are_used_for_nothing_else(tmp_path):
    studio = ToyStudio()
    make(tmp_path, replace(PLAN, generations=1), studio=studio).run()
    finals = {seed for name, seeds in studio.calls[-10:] for seed in seeds}
    before = {seed for name, seeds in studio.calls[:-10] for seed in seeds}
    assert len(finals) == 8
    assert not finals & before


def test_a_resumed_search_equals_one_that_was_not_interrupted(tmp_path):
    plan = replace(PLAN, generations=3, enough=0.0)
    make(tmp_path / "whole", plan).run()
    studio = Interrupted(60)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "parts", plan, studio=studio).run()
    assert (tmp_path / "parts" / STATE).is_file()
    again = ToyStudio()
    make(tmp_path / "parts", plan, studio=again).run(resume=True)
    assert report_of(tmp_path / "parts") == report_of(tmp_path / "whole")
    assert not [name for name, _ in again.calls if name == "constant D = +0.2"]


def test_a_longer_search_goes_on_from_a_shorter_one(tmp_path):
    plan = replace(PLAN, generations=1, enough=0.0)
    make(tmp_path / "one", plan).run()
    longer = replace(plan, generations=2)
    make(tmp_path / "one", longer).run(resume=True)
    make(tmp_path / "two", longer).run()
    assert report_of(tmp_path / "one") == report_of(tmp_path / "two")


class Interrupted(ToyStudio):
    """Ctrl-C at the n-th rendering."""

    def __init__(self, calls):
        super().__init__()
        self.left = calls

    def render(self, *arguments, **options):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().render(*arguments, **options)


def _member(rank, folder, store):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    make(folder, replace(PLAN, generations=2, enough=0.0), processes=Processes.current()).run()
    torch.distributed.destroy_process_group()


@pytest.mark.processes
def test_two_processes_find_what_one_finds(tmp_path):
    make(tmp_path / "one", replace(PLAN, generations=2, enough=0.0)).run()
    mp.spawn(_member, (tmp_path / "two", tmp_path / "store"), nprocs=2)
    assert report_of(tmp_path / "two") == report_of(tmp_path / "one")
    assert (tmp_path / "two" / CURVE).read_bytes() == (tmp_path / "one" / CURVE).read_bytes()


def test_the_coupling_is_searched_where_asked_for(tmp_path):
    def scores(images, prompts):
        return {"closeness": closeness(STEPS)(images, prompts)["closeness"]}

    found = make(tmp_path, replace(PLAN, couplings=(0.0, 1.0), generations=2), scores).run()
    assert found.curve.about["retiming"]["velocity_coupling"] in (0.0, 1.0)
    assert set(found.report["generations"][0]["couplings"]) == {"0", "1"}


# --- what it is made of --------------------------------------------------------------------------------------------


def test_knots_are_even_in_log_snr_from_the_first_action_to_the_last():
    grid = [1.0, 0.9, 0.7, 0.4, 0.1, 0.0]
    knots = torch.tensor(knots_in_log_snr(grid, 4), dtype=torch.float64)
    assert knots[0] == pytest.approx(0.9)
    assert knots[-1] == pytest.approx(0.1)
    steps = knots.logit().diff()
    assert torch.allclose(steps, steps[:1])
    assert knots_in_log_snr([1.0, 0.5, 0.0], 4) == [0.5]
    assert len(knots_in_log_snr([1.0, 0.6, 0.3, 0.0], 4)) == 2


def test_a_belief_draws_its_centre_first_and_stays_inside_the_bound():
    belief = Belief.around(0.4, 0.5, 4, (0, 1, 2), (0.0,))
    drawn = belief.draw(64, 0.5, 7)
    assert drawn[0] == Candidate((0.4,) * 4)
    assert drawn == belief.draw(64, 0.5, 7)
    assert drawn[1:] != belief.draw(64, 0.5, 8)[1:]
    values = torch.tensor([candidate.values for candidate in drawn])
    assert values.abs().max() == 0.5
    assert {candidate.tail_sync for candidate in drawn} == {0, 1, 2}


def test_a_belief_learns_from_the_elite_and_gives_no_choice_up():
    belief = Belief.around(0.0, 0.2, 1, (0, 1), (0.0,))
    for _ in range(8):
        belief.learn([Candidate((0.3,), 1), Candidate((0.3,), 1)])
    assert belief.mean[0] == pytest.approx(0.3, abs=1e-3)
    assert belief.std[0] < 1e-3
    assert 0 < belief.tails[0] < 0.06
    assert sum(belief.tails.values()) == pytest.approx(1)


def test_the_gain_is_in_the_spread_between_noises():
    studio, scorer = ToyStudio(), closeness(STEPS, seed_matters=1.0)
    measurer = Measurer(studio, scorer, 4)
    arm, plain = Arm("c", STEPS, Constant(0.2)), Arm("s", STEPS)
    first, second = (measurer.measure([plain], PROMPTS, range(start, start + 40))[0] for start in (0, 100))
    gain_scale = GainScale.between_noises(first, second, {})
    assert gain_scale.std["closeness"] == pytest.approx(0.1, rel=0.35)  # the noise's standard deviation
    measured = measurer.measure([arm], PROMPTS, range(40))[0]
    difference = (measured.scores["closeness"] - first.scores["closeness"]).double()
    expected = difference.mean() / gain_scale.std["closeness"]
    assert float(gain_scale.gain(measured, first).mean()) == pytest.approx(float(expected))


def test_less_noise_is_better_and_weights_count():
    def scores(images, prompts):
        quality = images[:, 0, 20, 0]
        return {"residual-noise": 5 + quality + (images[:, 0, 1, 0] - 0.5), "other": quality}

    measurer = Measurer(ToyStudio(), scores, 8)
    plain, arm = Arm("s", STEPS), Arm("c", STEPS, Constant(0.4))
    first, second = (measurer.measure([plain], PROMPTS[:8], range(start, start + 8))[0] for start in (0, 50))
    measured = measurer.measure([arm], PROMPTS[:8], range(8))[0]
    alone = GainScale.between_noises(first, second, {"other": 0.0})
    assert set(alone.std) == {"residual-noise"}
    assert float(alone.gain(measured, first).mean()) < 0
    both = GainScale.between_noises(first, second, {"residual-noise": 1.0, "other": 3.0})
    assert float(both.gain(measured, first).mean()) == pytest.approx(float(alone.gain(measured, first).mean()) / 4)


@pytest.mark.parametrize(("metric", "sign"), [("residual-noise", 1), ("clean", -1)])
def test_noise_that_nobody_sees_hardly_counts(metric, sign):
    """Its spread between two noises is far below what can be seen; a gain in that unit would be about nothing."""

    def scores(images, prompts):
        return {metric: sign * (0.03 + 0.04 * images[:, 0, 1, 0]), "other": images[:, 0, 20, 0]}

    measurer = Measurer(ToyStudio(), scores, 8)
    first, second = (measurer.measure([Arm("s", STEPS)], PROMPTS[:8], range(start, start + 8))[0] for start in (0, 50))
    assert GainScale.between_noises(first, second, {}).std[metric] == 0.25
    assert metric not in GainScale.between_noises(first, second, {metric: 0.0}).std


def test_noise_counts_even_where_synchronous_images_have_none():
    def scores(images, prompts):
        return {"residual-noise": 0.1 + 4 * (images[:, 0, 1, 0] - 0.5).abs(), "other": images[:, 0, 20, 0]}

    measurer = Measurer(ToyStudio(), scores, 8)
    plain, arm = Arm("s", STEPS), Arm("c", STEPS, Constant(0.5))
    first, second = (measurer.measure([plain], PROMPTS[:8], range(start, start + 8))[0] for start in (0, 50))
    gain_scale = GainScale.between_noises(first, second, {})
    assert gain_scale.std["residual-noise"] == 0.25
    measured = measurer.measure([arm], PROMPTS[:8], range(8))[0]
    assert float(gain_scale.gain(measured, first).mean()) == pytest.approx(-(0.6 - 0.5) / 0.25 / 2, abs=1e-5)


# --- what can go wrong ---------------------------------------------------------------------------------------------


def _constant(images, prompts):
    return {"same": torch.ones(len(images))}


def _broken(images, prompts):
    return {"broken": torch.full((len(images),), float("nan"))}


@pytest.mark.parametrize(("scorer", "words"), [(_constant, "same score to every image"), (_broken, "gave nan for")])
def test_scores_that_tell_nothing_are_sentences(tmp_path, scorer, words):
    with pytest.raises(MeasureError, match=words):
        make(tmp_path, scorer=scorer).run()
    assert not (tmp_path / CURVE).exists()


def test_a_metric_without_spread_is_left_out(tmp_path):
    def scores(images, prompts):
        return {**closeness(STEPS)(images, prompts), **_constant(images, prompts)}

    found = make(tmp_path, replace(PLAN, generations=1), scores).run()
    assert set(found.report["std"]) == {"closeness"}


def test_a_changed_setting_is_noticed(tmp_path):
    make(tmp_path, replace(PLAN, generations=1)).run()
    changes = [
        {"plan": replace(PLAN, bound=1.0)},
        {"plan": replace(PLAN, prompts=7)},
        {"studio": ToyStudio("another")},
        {"prompts": PromptOrder(PROMPTS[:-1], 1)},
    ]
    for change in changes:
        with pytest.raises(ResumeError, match="and is now"):
            make(tmp_path, **change).run(resume=True)
    with pytest.raises(ResumeError, match="sigmas was"):
        make(tmp_path, studio=OtherGrid()).run(resume=True)


class OtherGrid(ToyStudio):
    def sigma_grid(self, steps):
        return [1 - (k / steps) ** 2 for k in range(steps)] + [0.0]


def test_a_damaged_state_is_a_sentence_and_stays(tmp_path):
    make(tmp_path, replace(PLAN, generations=1)).run()
    whole = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResumeError, match="damaged"):
        make(tmp_path).run(resume=True)
    assert (tmp_path / STATE).stat().st_size == len(whole) // 2


def test_no_prompts_are_sentences(tmp_path):
    with pytest.raises(SearchError, match="no held-out prompts"):
        make(tmp_path, held_out=[])
    with pytest.raises(MeasureError, match="no prompts"):
        Measurer(ToyStudio(), closeness(STEPS)).measure([Arm("a", STEPS)], [], [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"population": 4, "elite": 4}, "larger population"),
        ({"tails": (5,)}, "no action is left"),
        ({"tails": ()}, "to choose from"),
        ({"spread": 0}, "spread"),
        ({"prompts": 1}, "prompts must be"),
        ({"steps": 1}, "steps must be"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_a_sentence(change, words):
    with pytest.raises(SearchError, match=words):
        replace(PLAN, **change)


def test_a_bound_out_of_range_is_a_sentence():
    with pytest.raises(PolicyError, match="bound"):
        replace(PLAN, bound=1.5)
