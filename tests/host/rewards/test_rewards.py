"""Reward models inside ComfyUI: files, scores, and what the host's model management does with them."""

import csv
import io
import os

import pytest
import torch

from support import reward_stand_ins

pytestmark = pytest.mark.host

PAPER = {
    "ImageReward": "image-reward",
    "HPSv2 v2.0": "hps-v2",
    "CLIP Score": "clip-score",
    "PickScore": "pick-score",
}
PROMPT = "a large red circle"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards")
    reward_stand_ins.write_all(folder)
    return folder


@pytest.fixture
def models(comfy, files, monkeypatch):
    """The pack's module of reward models, with the stand-ins in its only folder."""
    import folder_paths

    from asyncdiff.nodes.rewards import models

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "rewards", ([str(files)], set()))
    return models


@pytest.fixture
def management(models):
    import comfy.model_management

    yield comfy.model_management
    comfy.model_management.unload_all_models()
    comfy.model_management.interrupt_current_processing(value=False)


def batch(count=3, side=64, seed=0):
    """IMAGE (n, side, side, 3)."""
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))


def run(images, models, prompts=PROMPT, **settings):
    """The scorer as the executor runs it: (composite, table, rows of the text)."""
    from asyncdiff.nodes.rewards.nodes_scoring import CompositeReward

    chosen = {"weights": "", "group_by_prompt": False, "ddof": 0, "residual_noise": False, "title": ""} | settings
    sockets = {f"model{number}": model for number, model in enumerate(models)}
    with torch.inference_mode():
        combined, table, text = executed(CompositeReward, images=images, prompts=prompts, models=sockets, **chosen)
    return combined, table, list(csv.DictReader(io.StringIO(text)))


def executed(node, **inputs):
    """A node's outputs; its preview would need a run of the server."""
    from comfy_api.latest import ui

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ui, "PreviewImage", lambda *_, **__: None)
        return node.execute(**inputs).args


def load(models, *titles, **settings):
    with torch.inference_mode():
        return [models.load(title, **settings) for title in titles]


# --- scores ---------------------------------------------------------------------------------------------------------


def test_the_four_metrics_of_the_paper_score_as_the_library_does(models, management, files):
    from asyncdiff.tpm.rewards.catalogue import open_metric
    from asyncdiff.tpm.rewards.pictures import as_pictures

    images = batch()
    combined, table, rows = run(images, load(models, *PAPER))
    assert table.shape[0] == 1
    assert table.std() > 0.05
    for title, key in PAPER.items():
        metric = open_metric(key, files, words=None if key == "image-reward" else models.CLIP_VOCABULARY)
        expected = metric.score(as_pictures(images.movedim(-1, 1)), [PROMPT] * 3)
        assert expected.std() > 0
        assert combined.raw[key] == pytest.approx(expected.double(), rel=1e-5, abs=1e-6)
        assert [float(row[title]) for row in rows] == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)
    mean = sum(combined.z[key] for key in PAPER.values()) / 4
    assert combined.reward == pytest.approx(mean)
    assert [int(row["rank"]) for row in rows] == [combined.ranking().index(place) + 1 for place in range(3)]


def test_half_precision_and_a_file_of_another_name_are_the_same_metric(models, management, files):
    reward_stand_ins.write_hps(files, "mine/hps.pt")
    assert "mine/hps.pt" in models.weight_files()
    exact, half, other = (
        run(batch(), load(models, "HPSv2 v2.0", **given))[0].raw["hps-v2"]
        for given in ({}, {"precision": "fp16"}, {"name": "mine/hps.pt"})
    )
    assert torch.equal(exact, other)
    assert half == pytest.approx(exact, abs=2e-2)
    assert not torch.equal(exact, half)


def test_prompts_weights_groups_and_noise_reach_the_composite(models, management):
    from asyncdiff.tpm.rewards.composite import composite

    images = batch(4)
    lines = ["a red circle", "a blue square", "a red circle", "a blue square"]
    combined, _, rows = run(
        images, load(models, "PickScore"), "\n".join(lines), weights="pickscore: 3, Residual noise: 1",
        group_by_prompt=True, ddof=1, residual_noise=True,
    )  # fmt: skip
    weights = {"pick-score": 3, "residual-noise": 1}
    assert torch.equal(combined.reward, composite(combined.raw, weights=weights, groups=lines, ddof=1).reward)
    assert [row["prompt"] for row in rows] == lines
    assert not torch.allclose(combined.reward, composite(combined.raw).reward)


def test_the_embedded_judge_prefers_the_image_that_shows_the_prompt(models, management):
    import numpy as np

    from asyncdiff.tpm.embedded.render import render
    from asyncdiff.tpm.embedded.world import caption, sample_scene

    draw = np.random.default_rng(3)
    scenes = [sample_scene(draw) for _ in range(4)]
    images = render(scenes)[0].movedim(1, -1)
    said = caption(draw, scenes[2])
    combined, _, _ = run(images, load(models, "Embedded judge"), said)
    assert combined.ranking()[0] == 2
    assert combined.raw["embedded-judge"][2] > 0.9


# --- memory ---------------------------------------------------------------------------------------------------------

MEGABYTE = 1024**2


@pytest.fixture
def device(management, monkeypatch):
    """A device of a chosen size. "cpu:0" is to the host another device than "cpu", where models wait."""
    here = torch.device("cpu", 0)
    room = {"megabytes": 1000}

    def free(_=None, torch_free_too=False):
        used = sum(other.model.loaded_size() for other in management.current_loaded_models if other.device == here)
        left = management.minimum_inference_memory() + room["megabytes"] * MEGABYTE - used
        return (left, left) if torch_free_too else left

    monkeypatch.setattr(management, "get_free_memory", free)
    monkeypatch.setattr(management, "get_torch_device", lambda: here)
    return room


@pytest.fixture
def other(management, device):
    """A model of 20 MB that was in use before."""
    from comfy.model_patcher import ModelPatcher

    layers = torch.nn.Sequential(*[torch.nn.Linear(512, 512, bias=False) for _ in range(20)])
    patcher = ModelPatcher(layers, torch.device("cpu", 0), torch.device("cpu"))
    management.load_models_gpu([patcher], force_full_load=True)
    assert patcher.loaded_size() == 20 * MEGABYTE
    return patcher


def loaded(management):
    return [entry.model for entry in management.current_loaded_models]


def watched(monkeypatch, models, management):
    """What is loaded, and how much of it, whenever a chunk has been scored."""
    seen = []
    score = models.RewardModel.score

    def watching(self, pictures, prompts, progress):
        def step(count):
            seen.append([(patcher, patcher.loaded_size()) for patcher in loaded(management)])
            progress(count)

        return score(self, pictures, prompts, step)

    monkeypatch.setattr(models.RewardModel, "score", watching)
    return seen


def test_one_reward_model_at_a_time_and_none_afterwards(models, management, device, other, monkeypatch):
    seen = watched(monkeypatch, models, management)
    chosen = load(models, *PAPER)
    run(batch(), chosen)
    ours = {id(model.patcher): model.key for model in chosen}
    resident = [[ours[id(patcher)] for patcher, _ in there if patcher is not other] for there in seen]
    assert [names for n, names in enumerate(resident) if n == 0 or names != resident[n - 1]] == [
        [key] for key in PAPER.values()
    ]
    for there in seen:
        assert all(size == patcher.model_size() for patcher, size in there)
    assert loaded(management) == [other]
    assert other.loaded_size() == 20 * MEGABYTE
    for model in chosen:
        assert model.patcher.loaded_size() == 0
        assert {weight.device for weight in model.patcher.model.parameters()} == {torch.device("cpu")}


def test_another_model_gives_up_no_more_than_is_needed(models, management, device, other, monkeypatch):
    [model] = load(models, "CLIP Score")
    needed = 1.1 * model.patcher.model_size() / MEGABYTE
    device["megabytes"] = 20 + needed - 5.5
    seen = watched(monkeypatch, models, management)
    run(batch(), [model])
    while_scoring = dict(seen[0])
    assert while_scoring[model.patcher] == model.patcher.model_size()
    assert 12 * MEGABYTE <= while_scoring[other] <= 14.5 * MEGABYTE
    assert loaded(management) == [other]
    management.load_models_gpu([other], force_full_load=True)
    assert other.loaded_size() == 20 * MEGABYTE


def test_the_host_is_told_of_the_activations(models, management, device, monkeypatch):
    """More pictures at once need more room; a chunk is the most."""
    told = []
    load_models = management.load_models_gpu
    monkeypatch.setattr(
        management, "load_models_gpu", lambda *args, **more: (told.append(more), load_models(*args, **more))
    )
    monkeypatch.setattr(management, "is_device_cpu", lambda _: False)
    [model] = load(models, "PickScore")
    for count in (1, 4, 20):
        run(batch(count), [model])
    first, second, third = (more["memory_required"] for more in told)
    assert second == 4 * first
    assert third == 16 * first
    assert all(more["force_full_load"] for more in told)


def test_the_stop_button_is_heard_between_two_chunks_and_frees_the_model(
    models, management, device, other, monkeypatch
):  # fmt: skip
    from comfy.model_management import InterruptProcessingException

    chosen = load(models, "CLIP Score", "PickScore")
    before = run(batch(8), chosen)[0]
    chunks = []

    def stop_after_the_first(self, pictures, prompts):
        chunks.append(len(pictures))
        management.interrupt_current_processing()
        return score(self, pictures, prompts)

    kind = type(chosen[0].metric)
    score = kind.score
    with monkeypatch.context() as patch:
        patch.setattr(kind, "score", stop_after_the_first)
        with pytest.raises(InterruptProcessingException):
            run(batch(8), chosen)
    assert chunks == [2]
    assert loaded(management) == [other]
    again = run(batch(8), chosen)[0]
    assert torch.equal(again.reward, before.reward)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_its_folder_its_source_and_what_else_there_is(models, tmp_path, monkeypatch):
    import folder_paths

    from asyncdiff.nodes.rewards.nodes_scoring import LoadRewardModel
    from asyncdiff.tpm.rewards.base import RewardError

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "rewards", ([str(tmp_path)], set()))
    said = LoadRewardModel.validate_inputs("PickScore", "automatic")
    assert said == (
        f"PickScore needs PickScore_v1/model.safetensors in {tmp_path}; get it from "
        "huggingface.co/yuvalkirstain/PickScore_v1."
    )
    reward_stand_ins.write_hps(tmp_path)
    assert LoadRewardModel.validate_inputs("PickScore", "automatic").endswith("other files: HPS_v2_compressed.pt.")
    assert "is not in models/rewards" in LoadRewardModel.validate_inputs("PickScore", "gone.safetensors")
    assert "There is no metric Aesthetic" in LoadRewardModel.validate_inputs("Aesthetic", "automatic")
    assert LoadRewardModel.validate_inputs("HPSv2 v2.0", "automatic") is True
    assert LoadRewardModel.validate_inputs("Embedded judge", "automatic") is True
    (tmp_path / "ImageReward.pt").touch()
    with pytest.raises(RewardError, match=r"ImageReward needs vocab\.txt.*bert-base-uncased"):
        models.load("ImageReward")


def test_files_of_a_second_folder_are_found(models, files, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "rewards", ([str(tmp_path), str(files)], set()))
    assert models.locate("CLIP Score").folder == files
    reward_stand_ins.write_clip_score(tmp_path)
    assert models.locate("CLIP Score").folder == tmp_path
    assert models.locate("ImageReward").words == files / "bert-base-uncased"


def test_a_replaced_file_is_noticed(models, files):
    def fingerprints():
        return [models.fingerprint(*arguments) for arguments in given]

    given = [
        ("ImageReward", "automatic", "fp32"),
        ("CLIP Score", "automatic", "fp32"),
        ("CLIP Score", "automatic", "fp16"),
    ]
    first = fingerprints()
    assert first == fingerprints()
    assert len(set(first)) == 3
    os.utime(files / "bert-base-uncased" / "vocab.txt", ns=(1, 1))
    assert [a == b for a, b in zip(first, fingerprints(), strict=True)] == [False, True, True]
    os.utime(files / "clip-vit-large-patch14" / "model.safetensors", ns=(1, 1))
    assert [a == b for a, b in zip(first, fingerprints(), strict=True)] == [False, False, False]


# --- input that cannot be judged ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"prompts": "a\nb"}, "3 images but 2 prompts"),
        ({"prompts": " \n"}, "There is no prompt to judge by"),
        ({"prompts": "a\n\nb"}, "Line 2 of the prompts is empty"),
        ({"weights": "ImageReward: 1"}, "a weight for image-reward, but no scores"),
        ({"weights": "CLIP Score: 0"}, "not all 0"),
        ({"images": batch() * float("nan")}, "Image 1 holds NaN or infinite pixels"),
        ({"images": batch(1, 8), "residual_noise": True}, "Residual noise needs 32 pixels a side"),
        ({"models": 2}, "A metric is connected twice"),
        ({"models": 0}, "nothing to score with"),
    ],
)
def test_what_cannot_be_judged_is_a_sentence(models, management, settings, reason):
    from asyncdiff.tpm.rewards.base import RewardError

    given = {"images": batch(), "models": 1} | settings
    with pytest.raises(RewardError, match=reason):
        run(given.pop("images"), load(models, *["CLIP Score"] * given.pop("models")), **given)
    assert loaded(management) == []


@pytest.mark.parametrize("text", ["ImageReward 2", "Beauty: 2", "ImageReward: much"])
def test_weights_that_cannot_be_read_are_refused_before_anything_runs(models, text):
    from asyncdiff.nodes.rewards.nodes_scoring import CompositeReward

    assert isinstance(CompositeReward.validate_inputs(text), str)
    assert CompositeReward.validate_inputs("ImageReward: 2; residual noise: .5") is True


# --- what is done with the scores -----------------------------------------------------------------------------------


def noisy(levels):
    """A gray ramp with noise of these standard deviations, in 8-bit levels."""
    ramp = torch.linspace(0.3, 0.6, 96).expand(96, 96)[..., None].expand(96, 96, 3)
    noise = torch.randn(96, 96, 3, generator=torch.Generator().manual_seed(0))
    return torch.stack([ramp + noise * level / 255 for level in levels])


def test_residual_noise_measures_and_ranks_without_weights(models, management):
    from asyncdiff.nodes.rewards.nodes_selection import BestOfBatch, MeasureResidualNoise

    images = noisy([6, 2, 12])
    noise, text, scores = executed(MeasureResidualNoise, images=images)
    values = [float(line.rpartition(" ")[2]) for line in text.splitlines()]
    assert values[1] < values[0] < values[2]
    assert noise == pytest.approx(sum(values) / 3, abs=1e-3)
    best, index, lines = executed(BestOfBatch, images=images, scores=scores, by="Residual noise", count=2)
    assert index == 1
    assert torch.equal(best, images[[1, 0]])
    assert [line.split(":")[0] for line in lines.splitlines()] == ["image 2", "image 1"]


def test_best_of_batch_sorts_by_r_or_by_a_metric(models, management):
    from asyncdiff.nodes.rewards.nodes_selection import BestOfBatch
    from asyncdiff.tpm.rewards.base import RewardError
    from asyncdiff.tpm.rewards.composite import composite

    scores = composite({"clip-score": torch.tensor([0.3, 0.1, 0.2]), "pick-score": torch.tensor([1.0, 22.0, 21.0])})
    images = batch()

    def order(by, count=0):
        kept = executed(BestOfBatch, images=images, scores=scores, by=by, count=count)[0]
        return [next(n for n in range(3) if torch.equal(images[n], image)) for image in kept]

    assert order("R (composite)") == scores.ranking() == [2, 0, 1]
    assert order("CLIP Score") == [0, 2, 1]
    assert order("PickScore", 2) == [1, 2]
    assert order("PickScore", 50) == [1, 2, 0]
    with pytest.raises(RewardError, match=r"ImageReward was not scored; there are R \(composite\), CLIP Score"):
        order("ImageReward")
    with pytest.raises(RewardError, match="2 images but scores of 3"):
        executed(BestOfBatch, images=images[:2], scores=scores, by="R (composite)", count=1)
