"""GRPO on a toy whose best policy is known: it learns, null rewards do not, and every way of stopping keeps the run."""

import math
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.distributions import Beta

from asyncdiff.tpm.files import WriteError
from asyncdiff.tpm.policies import Learned
from asyncdiff.tpm.policies.checkpoint import load_tpm
from asyncdiff.tpm.rewards.composite import composite
from asyncdiff.tpm.training.distributed import ProcessError, Processes
from asyncdiff.tpm.training.grpo import trainer as trainer_module
from asyncdiff.tpm.training.grpo.advantages import RunningStd, SignalError, advantages, rewards
from asyncdiff.tpm.training.grpo.early_stop import HACKING_WINDOW, PATIENCE, reason_to_stop
from asyncdiff.tpm.training.grpo.journal import read_journal
from asyncdiff.tpm.training.grpo.recipe import Recipe
from asyncdiff.tpm.training.grpo.rollout import Sample, roll_out
from asyncdiff.tpm.training.grpo.trainer import STATE, TPM_FILE, Trainer, make_tpm
from asyncdiff.tpm.training.grpo.update import Averaged, Learner, minibatches, replay, surrogate
from asyncdiff.tpm.training.prompts import PromptOrder
from asyncdiff.tpm.training.resume import ResumeError
from asyncdiff.tpm.training.stopwatch import Stopwatch
from support.toy_studio import ToyStudio, spread_scorer
from support.toy_training import RECIPE, TARGET, awakened, journal, rolled, same_weights, trainer, weights

# --- the loss -----------------------------------------------------------------------------------------------------


def test_the_surrogate_of_eq_14():
    ratio = torch.tensor([0.5, 1.0, 1.1, 1.5, 0.5, 1.5])
    advantage = torch.tensor([1.0, 2.0, 1.0, 1.0, -1.0, -1.0])
    expected = torch.tensor([-0.5, -2.0, -1.1, -1.2, 0.8, 1.5])
    torch.testing.assert_close(surrogate(ratio.log(), advantage, 0.2), expected)


def test_the_surrogate_has_no_slope_where_it_is_clipped():
    log_ratio = torch.tensor([math.log(1.5), math.log(1.1), math.log(0.5)], requires_grad=True)
    surrogate(log_ratio, torch.tensor([1.0, 1.0, -1.0]), 0.2).sum().backward()
    assert log_ratio.grad[0] == 0
    assert log_ratio.grad[1] == pytest.approx(-1.1)
    assert log_ratio.grad[2] == 0


def test_the_gradient_is_that_of_an_independent_formulation():
    tpm, batch = rolled(4, ("a", "bb"))
    advantage = torch.tensor([1.0, -0.5, 2.0, -2.5])
    with torch.no_grad():
        for parameter in tpm.head.last.parameters():
            parameter.add_(0.05)  # ratios other than 1
    optimizer = torch.optim.SGD(tpm.parameters(), lr=0.0)
    Learner(tpm, optimizer, 0.2).update([batch], advantage, [[0, 1, 2, 3]])
    found = {name: p.grad.clone() for name, p in tpm.named_parameters() if p.grad is not None}

    tpm.zero_grad()
    total = 0.0
    for row in range(4):
        log_ratio = 0.0
        for step in batch.steps:
            text = tpm.encode_text(
                type(batch.text)(batch.text.context[row : row + 1], batch.text.pooled[row : row + 1]), 1
            )
            x, v = step.x[row : row + 1], step.v[row : row + 1]
            a, b = tpm(x, v, x - step.sigma * v, step.times[row : row + 1], text)
            alpha, beta = ((2 + z + z**2 / 2) if z > 0 else (1 + z.exp()) for z in (a, b))
            log_ratio = log_ratio + Beta(alpha, beta).log_prob(step.r[row]) - step.log_prob[row]
        ratio, gain = log_ratio.exp(), advantage[row]
        total = total - torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).sum() / 4
    total.backward()
    expected = {name: p.grad for name, p in tpm.named_parameters() if p.grad is not None}
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    scale = min(1.0, 1.0 / float(norm))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value * scale, atol=2e-5, rtol=1e-3)


def test_the_first_ratio_is_one_and_a_different_batch_size_does_not_change_it():
    tpm, batch = rolled(8)
    a, b = replay(tpm, batch, [5, 2, 7])
    r = torch.stack([step.r[[5, 2, 7]] for step in batch.steps])
    alpha, beta = (torch.where(z > 0, 2 + z + z**2 / 2, 1 + z.exp()) for z in (a, b))
    drawn = torch.stack([step.log_prob * step.free for step in batch.steps]).sum(0)
    torch.testing.assert_close(Beta(alpha, beta).log_prob(r).sum(0), drawn[[5, 2, 7]], atol=1e-4, rtol=0)
    still = torch.optim.SGD(tpm.parameters(), lr=0.0)
    stats = Learner(tpm, still, 0.2).update([batch], torch.ones(8), [[5, 2, 7]])
    assert stats.first_ratio_error < 1e-5
    assert len(stats.ratio) == 3


def test_actions_that_were_clamped_teach_nothing():
    tpm, batch = rolled(4)
    for step in batch.steps:
        step.free = torch.zeros(4, dtype=torch.bool)
    before = {name: p.clone() for name, p in tpm.named_parameters()}
    optimizer = torch.optim.SGD(tpm.parameters(), lr=1.0)
    stats = Learner(tpm, optimizer, 0.2).update([batch], torch.ones(4), [[0, 1, 2, 3]])
    assert stats.gradient_norm == [0.0]
    assert all(torch.equal(before[name], p) for name, p in tpm.named_parameters())


def test_a_clamped_step_is_marked():
    """Where the grid is much denser than before, a positive D runs into σ_min."""
    studio = ToyStudio(grid=[1.0, 0.5, 0.1, 0.01, 0.0])
    samples = [Sample("a", n, n, 0, n) for n in range(16)]
    batch = roll_out(studio, make_tpm(studio, RECIPE), samples, 4, RECIPE.retiming, Stopwatch())
    free = torch.stack([step.free for step in batch.steps])
    proposed = 0.01 + torch.tensor(batch.trace.proposed[3]) * (0.01 - 0.1)
    assert torch.equal(free[2], proposed >= RECIPE.retiming.sigma_min)
    assert 2 < free[2].sum() < 14
    assert free[0].all()


def test_minibatches_hold_every_trajectory_once():
    parts = list(minibatches(10, 4, torch.Generator().manual_seed(0)))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert sorted(n for part in parts for n in part) == list(range(10))


def test_the_average_follows_slowly():
    tpm = awakened(1)
    averaged = Averaged(tpm, 0.75)
    start = averaged.weights["head.last.bias"].clone()
    with torch.no_grad():
        tpm.head.last.bias.add_(4.0)
    averaged.update(tpm)
    torch.testing.assert_close(averaged.weights["head.last.bias"], start + 1.0)


# --- scores to signals --------------------------------------------------------------------------------------------


def test_advantages_by_hand():
    found = advantages(torch.tensor([1.0, 3.0, 5.0, 5.0], dtype=torch.float64), [0, 0, 1, 1])
    assert found.tolist() == pytest.approx([-1 / (1 + 1e-4), 1 / (1 + 1e-4), 0, 0])


def test_advantages_are_limited_to_five():
    reward = torch.zeros(64, dtype=torch.float64)
    reward[0] = 1
    assert advantages(reward, [0] * 64)[0] == 5


def test_a_group_that_hardly_differs_is_not_blown_up():
    usual = RunningStd()
    loud = {"m": torch.tensor([0.0, 10.0])}
    assert rewards(loud, [0, 0], None, usual).tolist() == pytest.approx([-1, 1])
    quiet = {"m": torch.tensor([0.0, 0.01])}
    assert rewards(quiet, [0, 0], None, usual).abs().max() < 0.011
    assert composite(quiet).reward.abs().max() > 0.99, "without the floor it is"


def test_every_metric_counts_the_same_whatever_its_unit():
    scores = {"a": torch.tensor([0.0, 1.0, 2.0]), "b": torch.tensor([200.0, 100.0, 0.0])}
    assert rewards(scores, [0] * 3, None, RunningStd()).tolist() == pytest.approx([0, 0, 0], abs=1e-7)
    assert rewards(scores, [0] * 3, {"b": 0.0}, RunningStd())[2] > 1


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(SignalError, match="metric b gave scores that are not finite"):
        rewards({"a": torch.zeros(2), "b": torch.tensor([1.0, math.nan])}, [0, 0], None, RunningStd())


# --- whole runs ---------------------------------------------------------------------------------------------------


def final_deviation(folder, seeds=16):
    tpm, card = load_tpm(folder / TPM_FILE)
    trace = ToyStudio().render(["a"] * seeds, list(range(seeds)), Learned(tpm, card=card), steps=RECIPE.steps).trace
    return sum(trace.mean_deviation()[1:]) / (RECIPE.steps - 1)


LEARNING = {
    "iterations": 60, "group": 8, "noises": 1, "minibatch": 8, "render_batch": 8, "probe_every": 0,
    "learning_rate": 5e-4,
}  # fmt: skip


def test_it_learns_and_a_null_reward_does_not(tmp_path):
    """Wide images need a negative D, narrow ones a positive one."""
    for name, wish in (("wide", 1.0), ("narrow", 0.0)):
        trainer(tmp_path / name, spread_scorer(wish), **LEARNING).run()
    trainer(tmp_path / "null", **LEARNING, null_reward=True).run()
    assert final_deviation(tmp_path / "wide") < -0.15
    assert final_deviation(tmp_path / "narrow") > 0.15
    assert abs(final_deviation(tmp_path / "null")) < 0.03


def test_an_untrained_tpm_answers_the_start(tmp_path):
    outcome = trainer(tmp_path, iterations=1, learning_rate=1e-9, start=0.2).run()
    assert outcome.tpm == tmp_path / TPM_FILE
    assert final_deviation(tmp_path) == pytest.approx(0.2, abs=1e-4)


def test_two_iterations_resumed_to_four_are_four(tmp_path):
    trainer(tmp_path / "whole").run()
    trainer(tmp_path / "parts", iterations=2).run()
    trainer(tmp_path / "parts").run(resume=True)
    assert (tmp_path / "whole" / TPM_FILE).read_bytes() == (tmp_path / "parts" / TPM_FILE).read_bytes()
    assert journal(tmp_path / "whole") == journal(tmp_path / "parts")
    assert len(journal(tmp_path / "whole")) == 4


def test_another_seed_gives_other_weights(tmp_path):
    """The control of every equality here."""
    trainer(tmp_path / "a").run()
    trainer(tmp_path / "b", seed=8).run()
    assert not same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_the_size_of_a_rendering_batch_changes_nothing(tmp_path):
    trainer(tmp_path / "one").run()
    trainer(tmp_path / "two", render_batch=3).run()
    assert same_weights(weights(tmp_path / "one"), weights(tmp_path / "two"), 2e-5)


def test_it_trains_under_inference_mode(tmp_path):
    """ComfyUI's executor runs nodes so."""
    with torch.inference_mode():
        trainer(tmp_path / "inside").run()
    trainer(tmp_path / "outside").run()
    assert same_weights(weights(tmp_path / "inside"), weights(tmp_path / "outside"))


def test_an_interrupt_keeps_the_last_whole_iteration(tmp_path):
    calls = []

    def impatient(images, prompts):
        calls.append(1)
        if len(calls) == 4:  # one iteration and a synchronous and a learned probe before
            raise KeyboardInterrupt
        return spread_scorer(TARGET)(images, prompts)

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "stopped", scorer=impatient).run()
    assert len(journal(tmp_path / "stopped")) in (1, 2)
    trainer(tmp_path / "stopped").run(resume=True)
    trainer(tmp_path / "whole").run()
    assert same_weights(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))
    assert journal(tmp_path / "stopped") == journal(tmp_path / "whole")


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from library.training.test_grpo import trainer
run = trainer(Path({folder!r}), iterations=400)
run.save_seconds = 0.0
run.run(resume=True)
"""


@pytest.mark.processes
def test_a_killed_process_goes_on_where_it_was(tmp_path, request):
    tests = str(request.config.rootpath / "tests")
    script = KILLED.format(tests=tests, folder=str(tmp_path / "killed"))
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        deadline = time.monotonic() + 120
        while len(read_journal(tmp_path / "killed" / "journal.jsonl")) < 3 and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended by itself"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = len(read_journal(tmp_path / "killed" / "journal.jsonl"))
    assert done >= 3
    trainer(tmp_path / "killed", iterations=done + 3).run(resume=True)
    trainer(tmp_path / "whole", iterations=done + 3).run()
    assert same_weights(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert len(journal(tmp_path / "killed")) == done + 3


def test_a_full_disk_leaves_the_last_state(tmp_path, monkeypatch):
    trainer(tmp_path, iterations=2).run()
    before = (tmp_path / STATE).read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / STATE))

    monkeypatch.setattr("asyncdiff.tpm.files.os.fsync", full)
    with pytest.raises(WriteError, match="no room on the disk"):
        trainer(tmp_path).run(resume=True)
    monkeypatch.undo()
    assert (tmp_path / STATE).read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))
    trainer(tmp_path).run(resume=True)
    trainer(tmp_path / "whole").run()
    assert same_weights(weights(tmp_path), weights(tmp_path / "whole"))


@pytest.mark.parametrize("place", [0.01, 0.3, 0.6, 0.99])
def test_a_state_with_a_flipped_bit_is_refused(tmp_path, place):
    trainer(tmp_path, iterations=1).run()
    data = bytearray((tmp_path / STATE).read_bytes())
    data[int(place * len(data))] ^= 0x10
    (tmp_path / STATE).write_bytes(data)
    with pytest.raises(ResumeError, match="damaged"):
        trainer(tmp_path).run(resume=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"steps": 5}, "steps was 4 and is now 5"), ({"seed": 8}, "seed was 7 and is now 8"), ({"bound": 1.0}, "bound")],
)
def test_a_run_of_other_settings_is_refused(tmp_path, changes, words):
    trainer(tmp_path, iterations=1).run()
    with pytest.raises(ResumeError, match=words):
        trainer(tmp_path, **changes).run(resume=True)


def test_another_model_or_other_prompts_are_refused(tmp_path):
    trainer(tmp_path, iterations=1).run()
    with pytest.raises(ResumeError, match='model was "toy" and is now "other"'):
        trainer(tmp_path, studio=ToyStudio("other")).run(resume=True)
    changed = trainer(tmp_path)
    changed.prompts = PromptOrder(["new"], 7)
    with pytest.raises(ResumeError, match="prompts was"):
        changed.run(resume=True)


@pytest.mark.parametrize("content", [b"", b"rubbish", None])
def test_a_damaged_state_is_a_sentence(tmp_path, content):
    trainer(tmp_path, iterations=1).run()
    whole = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ResumeError, match="damaged"):
        trainer(tmp_path).run(resume=True)


def test_an_iteration_without_a_usable_reward_changes_nothing(tmp_path):
    def broken(images, prompts):
        return {"spread": torch.full((len(images),), math.nan)}

    outcome = trainer(tmp_path, scorer=broken, iterations=2, probe_every=0).run()
    assert outcome.reason is None
    assert same_weights(weights(tmp_path), make_tpm(ToyStudio(), RECIPE).state_dict())
    assert "not finite" in journal(tmp_path)[0]["problem"]


@pytest.mark.parametrize("value", [math.nan, 0.7])
def test_a_reward_that_says_nothing_stops_the_run(tmp_path, value):
    def constant(images, prompts):
        return {"spread": torch.full((len(images),), value)}

    outcome = trainer(tmp_path, scorer=constant, iterations=PATIENCE + 10, probe_every=0).run()
    assert outcome.iterations == PATIENCE
    assert "told nothing apart" in outcome.reason
    assert load_tpm(outcome.tpm)[1].about["source"].startswith(f"GRPO, {PATIENCE} iterations, stopped")


def test_the_trainers_own_work_is_counted(tmp_path):
    run = trainer(tmp_path)
    run.run()
    shares = run.stopwatch.shares()
    assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
    assert {"render", "tpm", "recording", "rewards", "update", "probe", "other"} <= shares.keys()


def test_the_card_says_how_it_was_made(tmp_path):
    trainer(tmp_path).run()
    card = load_tpm(tmp_path / TPM_FILE)[1]
    assert card.sigmas == ToyStudio().sigma_grid(4)
    assert card.about["training"]["group"] == 4
    assert set(card.metrics["paired"]) == {"spread"}


# --- several processes --------------------------------------------------------------------------------------------


def member(rank, size, folder, port, failing):
    """One of several processes."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    scorer = spread_scorer(TARGET)

    def maybe(images, prompts):
        if failing == "raise" and rank == 1:
            raise ValueError("the disk of process 1 is gone")
        scores = scorer(images, prompts)
        if failing == "nan" and rank == 1:
            scores["spread"][0] = math.nan
        return scores

    run = trainer(folder, scorer=maybe, iterations=3, minibatch=3, probe_every=0 if failing else 2)
    run.processes = Processes(rank, size)
    run = Trainer(run.studio, run.scorer, run.prompts, run.recipe, folder, Processes(rank, size))
    try:
        run.run()
    except (ValueError, ProcessError) as error:
        (folder / f"error{rank}").write_text(f"{type(error).__name__}: {error}")
    torch.save(run.tpm.state_dict(), folder / f"weights{rank}.pt")
    dist.destroy_process_group()


def run_processes(folder, failing=None, size=2):
    import socket

    import torch.multiprocessing as processes

    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.spawn(member, (size, folder, port, failing), nprocs=size)
    return [torch.load(folder / f"weights{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.mark.processes
def test_two_processes_are_one(tmp_path):
    first, second = run_processes(tmp_path / "two")
    assert same_weights(first, second)
    trainer(tmp_path / "one", iterations=3, minibatch=3).run()
    assert same_weights(weights(tmp_path / "one"), weights(tmp_path / "two"), 1e-5)
    one, two = journal(tmp_path / "one"), journal(tmp_path / "two")
    assert [r["metrics"] for r in two] == [pytest.approx(r["metrics"], abs=1e-6) for r in one]
    assert [r["D"] for r in two] == [pytest.approx(r["D"], abs=1e-5) for r in one]
    assert two[1]["probe"]["paired"] == pytest.approx(one[1]["probe"]["paired"], abs=1e-6)


@pytest.mark.processes
def test_one_failing_process_stops_all(tmp_path):
    run_processes(tmp_path / "several", "raise")
    assert (tmp_path / "several" / "error1").read_text() == "ValueError: the disk of process 1 is gone"
    assert (tmp_path / "several" / "error0").read_text().startswith("ProcessError: Process 1 failed, so all stop")


@pytest.mark.processes
def test_one_nan_makes_all_skip(tmp_path):
    first, second = run_processes(tmp_path / "several", "nan")
    start = make_tpm(ToyStudio(), RECIPE).state_dict()
    assert same_weights(first, start)
    assert same_weights(second, start)


def test_shares_are_whole_and_in_order():
    items = list(range(7))
    assert [n for rank in range(3) for n in Processes(rank, 3).share(items)] == items
    assert [list(Processes(rank, 4).share([1, 2])) for rank in range(4)] == [[], [1], [], [2]]


# --- alarms -------------------------------------------------------------------------------------------------------


def healthy(count, **changes):
    record = {"signal": True, "metrics": {}, "at_bound": 0.0, "first_ratio_error": 0.0, "probe": None}
    return [{**record, "iteration": number + 1, **changes} for number in range(count)]


def test_a_healthy_run_goes_on():
    assert reason_to_stop(healthy(300), Recipe()) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"first_ratio_error": 2e-4}, "probabilities changed by 2.0e-04"),
        ({"at_bound": 0.99}, "D reached its bound in iteration 100, before 500"),
        ({"probe": {"noise": 1.3, "synchronous_noise": 1.0}}, "1.30 times that"),
        ({"signal": False}, "told nothing apart for 20 iterations"),
    ],
)
def test_alarms(changes, words):
    assert words in reason_to_stop(healthy(100, **changes), Recipe())


@pytest.mark.parametrize(
    "changes", [{"at_bound": 0.9}, {"probe": {"noise": 1.2, "synchronous_noise": 1.0}}, {"first_ratio_error": 9e-5}]
)
def test_alarms_stay_silent_below_their_limits(changes):
    assert reason_to_stop(healthy(100, **changes), Recipe()) is None


def metrics_of(number, falling):
    wobble = 0.01 * math.sin(number)
    return {
        "image-reward": 0.9 + number * 1e-3 + wobble,
        "clip-score": 0.27 + falling * number * 1e-3 + wobble,
        "pick-score": 22 + falling * number * 1e-3 + wobble,
    }


def test_hacking_the_perceptual_metrics_stops_the_run():
    history = [{**record, "metrics": metrics_of(record["iteration"], -1)} for record in healthy(HACKING_WINDOW)]
    assert "image-reward rose while clip-score and pick-score fell" in reason_to_stop(history, Recipe())
    history = [{**record, "metrics": metrics_of(record["iteration"], 1)} for record in healthy(HACKING_WINDOW)]
    assert reason_to_stop(history, Recipe()) is None


# --- time --------------------------------------------------------------------------------------------------------


def test_the_clock_counts_the_innermost_name(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("asyncdiff.tpm.training.stopwatch.time.perf_counter", lambda: now[0])
    stopwatch = Stopwatch()

    def wait(seconds):
        now[0] += seconds

    wait(1)
    with stopwatch("outer"):
        wait(2)
        with stopwatch("inner"):
            wait(4)
        wait(1)
    wait(2)
    assert stopwatch.seconds == {"outer": 3.0, "inner": 4.0}
    assert stopwatch.shares() == {"outer": 0.3, "inner": 0.4, "other": pytest.approx(0.3)}


def test_the_state_is_saved_now_and_then(tmp_path, monkeypatch):
    """Not after every iteration, which would cost more than the iteration."""
    saved = []
    monkeypatch.setattr(trainer_module, "save_state", lambda path, *_: saved.append(path))
    trainer(tmp_path, probe_every=0).run()
    assert len(saved) == 1
