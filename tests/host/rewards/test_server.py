"""The reward nodes on a running server, over HTTP: what they give, what is cached, and what is refused."""

import csv
import io
import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from support import reward_stand_ins
from support.server import ExecutionError, RequestError

pytestmark = pytest.mark.host

PROMPT = "a red circle"
RUNS = itertools.count(1)


@pytest.fixture(scope="module")
def rewards(server):
    """The server's models/rewards, with every stand-in."""
    reward_stand_ins.write_all(server.models / "rewards")
    return server.models / "rewards"


@pytest.fixture(scope="module")
def pictures(server):
    """Three noises of different strength, as a batch that a stock node loads from files."""
    from PIL import Image

    draw = np.random.default_rng(0)
    loaders = {}
    for number, strength in enumerate((40, 5, 20)):
        noise = (128 + strength * draw.standard_normal((64, 64, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(server.input / f"noise{number}.png")
        loaders[f"load{number}"] = {"class_type": "LoadImage", "inputs": {"image": f"noise{number}.png"}}
    inputs = {f"images.image{number}": [f"load{number}", 0] for number in range(3)}
    return loaders | {"batch": {"class_type": "BatchImagesNode", "inputs": inputs}}


def graph(pictures, *models, **settings):
    """A prompt that scores the batch, and shows the scores as text."""
    inputs = {"images": ["batch", 0], "prompts": PROMPT, "weights": "", "group_by_prompt": False, "ddof": 0}
    inputs |= {"residual_noise": False, "title": f"run {next(RUNS)}"} | settings
    nodes = {}
    for number, model in enumerate(models):
        given = {"name": "automatic", "precision": "fp32"} | ({"metric": model} if isinstance(model, str) else model)
        nodes[f"model{number}"] = {"class_type": "AsyncDiffLoadRewardModel", "inputs": given}
        inputs[f"models.model{number}"] = [f"model{number}", 0]
    nodes["score"] = {"class_type": "AsyncDiffCompositeReward", "inputs": inputs}
    nodes["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["score", 2]}}
    return pictures | nodes


def rows(entry, node="text"):
    return list(csv.DictReader(io.StringIO(entry["outputs"][node]["text"][0])))


def cached(entry):
    return next(body["nodes"] for kind, body in entry["status"]["messages"] if kind == "execution_cached")


def test_scores_ranking_and_the_best_image_come_back(server, rewards, pictures):
    prompt = graph(pictures, "CLIP Score", "PickScore", residual_noise=True, weights="PickScore: 0, CLIP Score: 0")
    best = {"images": ["batch", 0], "scores": ["score", 0], "by": "R (composite)", "count": 2}
    prompt |= {
        "best": {"class_type": "AsyncDiffBestOfBatch", "inputs": best},
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["best", 0]}},
        "all": {"class_type": "PreviewImage", "inputs": {"images": ["batch", 0]}},
        "noise": {"class_type": "AsyncDiffResidualNoise", "inputs": {"images": ["batch", 0]}},
        "said": {"class_type": "PreviewAny", "inputs": {"source": ["noise", 1]}},
    }
    entry = server.run(prompt)
    table = rows(entry)
    assert [row["rank"] for row in table] == ["3", "1", "2"]
    assert all(len({row[title] for row in table}) == 3 for title in ("CLIP Score", "PickScore", "Residual noise"))
    said = [float(line.rpartition(" ")[2]) for line in entry["outputs"]["said"]["text"][0].splitlines()]
    assert said == pytest.approx([float(row["Residual noise"]) for row in table], abs=1e-3)
    shown, everything = ([np.asarray(image) for image in server.images(entry, name)] for name in ("shown", "all"))
    assert np.array_equal(shown[0], everything[1])
    assert np.array_equal(shown[1], everything[2])
    [picture] = server.images(entry, "score")
    assert min(picture.size) > 300


def test_models_stay_cached_until_their_file_changes(server, rewards, pictures):
    prompt = graph(pictures, "CLIP Score")
    first = rows(server.run(prompt))
    prompt["score"]["inputs"]["ddof"] = 1
    again = server.run(prompt)
    assert "model0" in cached(again)
    assert "score" not in cached(again)
    assert [row["CLIP Score"] for row in rows(again)] == [row["CLIP Score"] for row in first]
    save_file(
        {name: value * 1.1 for name, value in reward_stand_ins.hugging_face(reward_stand_ins.SMALL_L).items()},
        rewards / "clip-vit-large-patch14" / "model.safetensors",
    )
    prompt["score"]["inputs"]["ddof"] = 0
    replaced = server.run(prompt)
    assert "model0" not in cached(replaced)
    assert [row["CLIP Score"] for row in rows(replaced)] != [row["CLIP Score"] for row in first]
    reward_stand_ins.write_clip_score(rewards)


def test_a_missing_file_is_named_before_anything_is_queued(server, rewards, pictures):
    hidden = (rewards / "PickScore_v1" / "model.safetensors").rename(rewards / "away")
    try:
        with pytest.raises(RequestError) as refusal:
            server.queue(graph(pictures, "PickScore"))
    finally:
        hidden.rename(rewards / "PickScore_v1" / "model.safetensors")
    assert refusal.value.status == 400
    said = refusal.value.body["node_errors"]["model0"]["errors"][0]["details"]
    assert "PickScore_v1/model.safetensors in models/rewards; get it from huggingface.co/yuvalkirstain" in said


@pytest.mark.parametrize(
    ("models", "settings", "reason"),
    [
        (["ImageReward"], {"weights": "Beauty: 2"}, "does not begin with a metric"),
        (["ImageReward"], {"ddof": 2}, "bigger than max"),
        ([{"metric": "ImageReward", "name": "gone.pt"}], {}, "gone.pt is not in models/rewards"),
        ([{"metric": "Beauty"}], {}, "There is no metric Beauty"),
    ],
)
def test_a_wrong_setting_is_refused_before_it_is_queued(server, rewards, pictures, models, settings, reason):
    with pytest.raises(RequestError) as refusal:
        server.queue(graph(pictures, *models, **settings))
    assert refusal.value.status == 400
    assert reason in str(refusal.value)


@pytest.fixture(scope="module")
def damaged(rewards):
    """Files that are no metric's."""
    whole = (rewards / "clip-vit-large-patch14" / "model.safetensors").read_bytes()
    (rewards / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    weights = reward_stand_ins.hugging_face(reward_stand_ins.SMALL_L)
    weights["visual_projection.weight"][0, 0] = torch.nan
    save_file(weights, rewards / "nan.safetensors")


@pytest.mark.usefixtures("damaged")
@pytest.mark.parametrize(
    ("models", "settings", "reason"),
    [
        (["CLIP Score"], {"prompts": "a\nb"}, "There are 3 images but 2 prompts"),
        (["CLIP Score"], {"prompts": ""}, "There is no prompt to judge by"),
        (["CLIP Score"], {"prompts": "a\n\nb"}, "Line 2 of the prompts is empty"),
        (["Embedded judge"], {"prompts": "a lighthouse"}, "lighthouse"),
        ([], {}, "There is nothing to score with"),
        (["CLIP Score", "CLIP Score"], {}, "A metric is connected twice"),
        ([{"metric": "CLIP Score", "name": "half.safetensors"}], {}, "not a complete file of weights"),
        ([{"metric": "CLIP Score", "name": "PickScore_v1/model.safetensors"}], {}, "is another model"),
        ([{"metric": "HPSv2 v2.0", "name": "ImageReward.pt"}], {}, "does not have open_clip's layout"),
        ([{"metric": "CLIP Score", "name": "nan.safetensors"}], {}, "CLIP Score gave nan for image 1"),
    ],
)
def test_what_cannot_be_judged_is_a_sentence(server, pictures, models, settings, reason):
    assert reason in failure(server, graph(pictures, *models, **settings))


def test_pixels_that_are_not_numbers_are_a_sentence(server, rewards, pictures):
    """From a latent of NaN, as a failed sampling leaves it."""
    latent = {"latent_tensor": torch.full((1, 16, 8, 8), torch.nan), "latent_format_version_0": torch.tensor([])}
    save_file(latent, server.input / "nan.latent")
    prompt = graph(pictures, "CLIP Score") | {
        "latent": {"class_type": "LoadLatent", "inputs": {"latent": "nan.latent"}},
        "pipe": {"class_type": "AsyncDiffLoadEmbeddedPipeline", "inputs": {}},
        "batch": {"class_type": "VAEDecode", "inputs": {"samples": ["latent", 0], "vae": ["pipe", 2]}},
    }
    assert "Image 1 holds NaN or infinite pixels" in failure(server, prompt)


def test_scores_of_another_batch_are_a_sentence(server, rewards, pictures):
    best = {"images": ["load0", 0], "scores": ["score", 0], "by": "ImageReward", "count": 1}
    prompt = graph(pictures, "ImageReward") | {
        "best": {"class_type": "AsyncDiffBestOfBatch", "inputs": best},
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["best", 0]}},
    }
    assert "There are 1 images but scores of 3" in failure(server, prompt)
    best["images"], best["by"] = ["batch", 0], "PickScore"
    assert "PickScore was not scored; there are R (composite), ImageReward" in failure(server, prompt)


def failure(server, prompt):
    with pytest.raises(ExecutionError) as failed:
        server.run(prompt)
    return next(
        body["exception_message"]
        for kind, body in failed.value.entry["status"]["messages"]
        if kind == "execution_error"
    )
