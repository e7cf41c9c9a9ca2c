"""Train TPM and Search Policy in process: what they write, how they stop and go on, and what they refuse."""

import io
import json

import pytest
import torch

from support import stand_ins
from support.training_parts import (
    PROMPTS,
    SEARCH,
    TRAINING,
    document,
    executed,
    inputs_of,
    same_weights,
    vae,
    weights,
)

pytestmark = pytest.mark.host

TIMES = ("seconds", "time", "saved_evaluations")


@pytest.fixture(scope="module")
def model(comfy):
    return stand_ins.load(stand_ins.sd35())


@pytest.fixture(scope="module")
def decoder(comfy):
    return vae()


@pytest.fixture
def at(comfy, monkeypatch):
    """Makes a folder the only one of models/tpm."""
    import folder_paths

    from asyncdiff.nodes.retiming import policy_names  # noqa: F401 - adds the folder that is replaced here

    def go(folder):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "tpm", ([str(folder)], set()))
        return folder

    return go


@pytest.fixture
def train(model, decoder, monkeypatch):
    def go(**settings):
        from asyncdiff.nodes.training.nodes_training import TrainTPM

        given = inputs_of(TrainTPM, TRAINING | settings, model, decoder)
        return executed(TrainTPM, given, monkeypatch)

    return go


@pytest.fixture
def search(model, decoder, monkeypatch):
    def go(**settings):
        from asyncdiff.nodes.training.nodes_search import SearchPolicy

        return executed(SearchPolicy, inputs_of(SearchPolicy, SEARCH | settings, model, decoder), monkeypatch)

    return go


@pytest.fixture
def stop_after(monkeypatch):
    """Presses the stop button when a counted call is made for the n-th time; the host hears of it as usual."""
    from comfy import model_management as management

    def go(module, name, count):
        original, calls = getattr(module, name), []

        def counted(*args, **options):
            calls.append(1)
            if len(calls) == count:
                management.interrupt_current_processing(value=True)
            return original(*args, **options)

        monkeypatch.setattr(module, name, counted)

    return go


@pytest.fixture
def interrupted(comfy):
    from comfy import model_management as management

    yield management.InterruptProcessingException
    management.interrupt_current_processing(value=False)


# ------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def whole(comfy, model, decoder, tmp_path_factory):
    """An uninterrupted training: its folder, the node's outputs, and what the progress bar was shown."""
    import folder_paths
    from comfy import utils

    from asyncdiff.nodes.training.nodes_training import TrainTPM

    folder, shown = tmp_path_factory.mktemp("tpm"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folder_paths.folder_names_and_paths, "tpm", ([str(folder)], set()))
        patch.setattr(utils, "PROGRESS_BAR_HOOK", lambda *args, **_: shown.append(args))
        outputs = executed(TrainTPM, inputs_of(TrainTPM, TRAINING, model, decoder), patch)
    return folder, outputs, shown


def test_it_trains_under_inference_mode_and_load_tpm_sees_the_file_alone(whole, at):
    from asyncdiff.nodes.retiming import policy_names
    from asyncdiff.tpm.policies import Learned

    folder, (policy, report, before, after, text), _ = whole
    at(folder)
    assert [*policy_names.policy_files().keys() - policy_names.shipped_files()] == ["mine.safetensors"]
    assert (folder / "training" / "mine" / "state.pt").is_file()
    assert len((folder / "training" / "mine" / "journal.jsonl").read_text().splitlines()) == 3
    loaded = policy_names.load("mine.safetensors")
    assert isinstance(policy, Learned)
    assert loaded.card.name == policy.name == "mine"
    assert loaded.card.metrics["paired"].keys() == {"residual-noise"}
    assert any(value.any() for name, value in loaded.tpm.state_dict().items() if name.startswith("head.last"))
    assert report.shape[0] == 1
    assert report.std() > 0.05
    assert before.shape == after.shape == (2, 64, 64, 3)
    assert not torch.equal(before, after)
    assert "3 of 3 iterations" in text
    assert "residual-noise" in text


def test_the_bar_shows_every_iteration_and_a_chart(whole):
    _, _, shown = whole
    assert [args[0] for args in shown][-2] == 3
    assert {args[1] for args in shown[:-1]} == {3}
    kind, chart, side = next(args[2] for args in shown if args[2])
    assert kind == "JPEG"
    assert min(chart.size) > 400
    assert side >= chart.width


def test_the_trained_policy_samples(comfy, whole, model):
    from asyncdiff.nodes.retiming.patch import attach

    latent, positive = {"samples": torch.zeros(2, 16, 8, 8)}, stand_ins.conditioning(0)
    with torch.inference_mode():
        patched = attach(model, whole[1][0])
        (out,) = comfy.common_ksampler(patched, 1, 3, 1.0, "euler", "simple", positive, positive, latent)
        (plain,) = comfy.common_ksampler(model, 1, 3, 1.0, "euler", "simple", positive, positive, latent)
    assert torch.isfinite(out["samples"]).all()
    assert not torch.equal(out["samples"], plain["samples"])


def test_stopped_between_two_iterations_and_queued_again_it_equals_the_whole(
    train, at, tmp_path, whole, stop_after, interrupted
):
    from asyncdiff.nodes.training.nodes_training import Watch

    at(tmp_path)
    stop_after(Watch, "on_record", 2)
    with pytest.raises(interrupted):
        train()
    assert not (tmp_path / "mine.safetensors").exists()
    train()
    assert same_weights(tmp_path / "mine.safetensors", whole[0] / "mine.safetensors")


def saved_state(path):
    """The tensors and values of a run's state, which lie behind a checksum."""
    from asyncdiff.tpm.training.resume import DIGEST, MARK

    return torch.load(io.BytesIO(path.read_bytes()[len(MARK) + DIGEST :]), weights_only=True)


@pytest.mark.parametrize(
    ("run", "kept"), [(2, 1), (3, 1), (5, 2), (7, 3)], ids=["rollout", "comparison", "later rollout", "last images"]
)
def test_stopped_inside_a_run_of_the_model_and_queued_again_it_equals_the_whole(
    train, at, tmp_path, whole, stop_after, interrupted, run, kept
):
    from asyncdiff.nodes.training.studio import HostStudio

    at(tmp_path)
    stop_after(HostStudio, "sampled", run)
    with pytest.raises(interrupted):
        train()
    assert saved_state(tmp_path / "training" / "mine" / "state.pt")["iteration"] == kept
    train()
    assert same_weights(tmp_path / "mine.safetensors", whole[0] / "mine.safetensors")
    assert told(tmp_path) == told(whole[0])


def told(folder):
    """What the journal says of every iteration, but for the time it took."""
    lines = (folder / "training" / "mine" / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def test_a_finished_run_goes_on_when_it_is_made_longer_and_only_then(train, at, tmp_path, whole):
    at(tmp_path)
    train(iterations=2)
    short = weights(tmp_path / "mine.safetensors")
    train(iterations=2)
    assert all(torch.equal(value, short[name]) for name, value in weights(tmp_path / "mine.safetensors").items())
    train(iterations=3)
    assert same_weights(tmp_path / "mine.safetensors", whole[0] / "mine.safetensors")


def test_a_changed_setting_is_named_and_resume_off_begins_anew(train, at, tmp_path):
    from asyncdiff.tpm.training.resume import ResumeError

    at(tmp_path)
    train(iterations=1, probe_every=0)
    with pytest.raises(ResumeError, match=r"group was 4 and is now 2"):
        train(iterations=1, probe_every=0, group=2)
    with pytest.raises(ResumeError, match=r"prompts was .* and is now"):
        train(iterations=1, probe_every=0, prompts="four\nthree\ntwo\none")
    before = weights(tmp_path / "mine.safetensors")
    train(iterations=1, probe_every=0, group=2, resume=False)
    assert not all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "mine.safetensors").items())


def test_random_rewards_are_said_to_be_random(train, at, tmp_path):
    at(tmp_path)
    policy, *_ = train(iterations=1, probe_every=0, null_reward=True)
    assert policy.card.about["training"]["null_reward"] is True


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"residual_noise": False}, "nothing to judge with"),
        ({"prompts": " \n"}, "There are no prompts"),
        ({"conditionings": {}}, "Connect a CLIP"),
        ({"prompts": "one\ntwo"}, "4 conditionings but 2 prompts"),
        ({"name": "../mine"}, "cannot be a file's name"),
        ({"noises": 3}, "group of 4 cannot be split over 3"),
        ({"start": 0.7}, "start must lie inside"),
        ({"prompt_file": "../secret.txt"}, "outside the input folder"),
        ({"prompt_file": "nothing.txt"}, "There is no file"),
        ({"width": 16, "height": 16}, "32 pixels a side"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence(train, at, tmp_path, settings, reason):
    from asyncdiff.tpm.errors import AsyncDiffError

    at(tmp_path)
    with pytest.raises(AsyncDiffError, match=reason):
        train(**settings)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_prompts_come_from_a_file_of_the_input_folder(comfy, tmp_path, monkeypatch):
    import folder_paths

    from asyncdiff.nodes.training.nodes_training import inputs

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    (tmp_path / "captions.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    assert inputs.prompts_of("three", "captions.txt") == ["one", "two"]
    first = inputs.fingerprint("captions.txt")
    (tmp_path / "captions.txt").write_text("another\n", encoding="utf-8")
    assert inputs.fingerprint("captions.txt") != first
    assert inputs.refuse("mine", "", "") is not True
    assert inputs.refuse(None, None, "captions.txt") is True


def test_a_prompt_from_before_the_limit_of_the_kl_still_trains(comfy):
    from asyncdiff.nodes.training.nodes_training import TrainTPM, recipe_of

    inputs = {entry.id: entry for entry in TrainTPM.GET_SCHEMA().inputs}
    given = {name: getattr(entry, "default", None) for name, entry in inputs.items() if name != "kl_limit"}
    assert recipe_of({**given, "tpm_size": "small (0.3 M)"}).kl_limit == inputs["kl_limit"].default == 0.03
    assert inputs["kl_limit"].optional


def test_the_embedded_judge_gives_its_three_scores_and_refuses_words_it_does_not_know(comfy):
    from asyncdiff.nodes.rewards.nodes_scoring import models
    from asyncdiff.nodes.training.scorer import HostScorer
    from asyncdiff.tpm.embedded.vocabulary import PromptError

    scorer = HostScorer([models.load("Embedded judge")])
    with torch.inference_mode():
        images = torch.rand(2, 3, 64, 64)
        scores = scorer(images, ["a red circle", "a blue star"])
    assert list(scores) == ["alignment", "detail fit", "clean"]
    assert all(values.shape == (2,) and not values.is_inference() for values in scores.values())
    with pytest.raises(PromptError, match="lighthouse"):
        scorer.check(["a red circle", "a lighthouse"])


# --------------------------------------------------------------------------------------------------------- search


@pytest.fixture(scope="module")
def searched(comfy, model, decoder, tmp_path_factory):
    """An uninterrupted search: its folder and the node's outputs."""
    import folder_paths

    from asyncdiff.nodes.training.nodes_search import SearchPolicy

    folder = tmp_path_factory.mktemp("tpm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folder_paths.folder_names_and_paths, "tpm", ([str(folder)], set()))
        return folder, executed(SearchPolicy, inputs_of(SearchPolicy, SEARCH, model, decoder), patch)


def test_a_search_writes_a_curve_that_load_tpm_lists(searched, at):
    from asyncdiff.nodes.retiming import policy_names

    folder, (policy, report, before, after, text) = searched
    at(folder)
    assert [*policy_names.policy_files().keys() - policy_names.shipped_files()] == ["mine.json"]
    assert policy_names.load("mine.json") == policy
    assert policy.name == "mine"
    assert policy.backbone == "sd3"
    assert report.std() > 0.05
    assert before.shape == after.shape == (2, 64, 64, 3)
    assert "synchronous: +0.000" in text
    assert "over the best constant" in text


def test_a_stopped_search_goes_on_and_finds_the_same(search, at, tmp_path, searched, stop_after, interrupted):
    from asyncdiff.nodes.training.studio import HostStudio
    from asyncdiff.tpm.training.search.search import STATE

    at(tmp_path)
    stop_after(HostStudio, "sampled", 12)
    with pytest.raises(interrupted):
        search()
    assert (tmp_path / "training" / "mine" / "search" / STATE).is_file()
    search()
    assert document(tmp_path / "mine.json") == document(searched[0] / "mine.json")


def test_training_and_search_of_one_name_live_side_by_side(search, train, at, tmp_path):
    at(tmp_path)
    search(generations=0)
    train(iterations=1, probe_every=0)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.json", "mine.safetensors", "training"}


def test_a_search_with_too_few_prompts_is_a_sentence(search, at, tmp_path):
    from asyncdiff.tpm.errors import AsyncDiffError

    at(tmp_path)
    three = {f"conditioning{n}": stand_ins.conditioning(n) for n in range(3)}
    with pytest.raises(AsyncDiffError, match="3 prompts are too few"):
        search(prompts="\n".join(PROMPTS[:3]), conditionings=three)
