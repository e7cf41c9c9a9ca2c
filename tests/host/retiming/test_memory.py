"""A checkpoint that is replaced is freed at once: the hooks of an asynchronous model hold no model."""

import logging
import weakref

import pytest

from support import stand_ins
from support.retiming_runs import asynchronous

pytestmark = pytest.mark.host


def live_after(run, patch, checkpoints=3, prompts=9):
    """Models alive after each prompt, when every prompt asks for another checkpoint than the one before."""
    models, alive, current = [], [], None
    for number in range(prompts):
        current = patch(stand_ins.load(stand_ins.sd35(depth=1 + number % checkpoints)))
        models.append(weakref.ref(current.model))
        run(current, steps=2)
        alive.append(sum(model() is not None for model in models))
    return alive


@pytest.mark.parametrize("patch", [lambda model: model, asynchronous], ids=["stock", "asynchronous"])
def test_old_checkpoints_die(run, collector, caplog, patch):
    with caplog.at_level(logging.INFO):
        assert live_after(run, patch) == [1] * 9
    assert [record.message for record in caplog.records if "leak" in record.message] == []


@pytest.fixture(scope="module")
def checkpoints(server):
    names = [f"memory{number}.safetensors" for number in range(3)]
    for number, name in enumerate(names):
        stand_ins.write_sd35(server.models / "checkpoints" / name, depth=1 + number)
    return names


def prompt(kind, checkpoint, seed):
    sampler = {
        "seed": seed, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
        "model": ["model", 0], "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["latent", 0],
    }  # fmt: skip
    ours = {"gamma": 1.0, "bound": "from policy", "tail_sync": 0, "velocity_coupling": 0.0, "policy": ["policy", 0]}
    nodes = {
        "pipe": {"class_type": "AsyncDiffLoadEmbeddedPipeline", "inputs": {}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["pipe", 1], "text": "a red circle"}},
        "latent": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "policy": {"class_type": "AsyncDiffConstantDeviation", "inputs": {"deviation": 0.3}},
        "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "sampler": {"class_type": "KSampler", "inputs": sampler},
        "image": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["pipe", 2]}},
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}},
    }
    if kind == "AsyncDiffKSampler":
        nodes["sampler"] = {"class_type": kind, "inputs": sampler | ours}
    elif kind == "AsyncDiffApply":
        nodes["patched"] = {"class_type": kind, "inputs": {"model": ["model", 0], **ours}}
        sampler["model"] = ["patched", 0]
    return nodes


@pytest.mark.parametrize("kind", ["KSampler", "AsyncDiffKSampler", "AsyncDiffApply"])
def test_nine_prompts_over_three_checkpoints_leak_nothing(server, checkpoints, kind):
    before = len(server.log())
    for seed in range(9):
        server.run(prompt(kind, checkpoints[seed % 3], seed))
    said = server.log()[before:].splitlines()
    assert [line for line in said if "leak" in line] == []
