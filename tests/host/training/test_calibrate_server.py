"""Calibrate Policy on a running server, over HTTP: what it leaves, stop and go on, and what is refused."""

import pytest

from support.server import ExecutionError, RequestError
from support.training_server import listed, stopped

pytestmark = pytest.mark.host

NODE = "AsyncDiffCalibratePolicy"
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange")
SETTINGS = {
    "name": "calibrated", "prompts": "\n".join(f"a {colour} circle" for colour in COLOURS), "prompt_file": "",
    "negative_prompt": "", "steps": 4, "teacher_steps": 16, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple",
    "count": 6, "seed": 42, "resume": True, "render_batch": 6,
}  # fmt: skip


def made(**settings):
    """The node with the embedded pipeline; its text is shown."""
    sockets = {"model": ["pipeline", 0], "clip": ["pipeline", 1], "latent_image": ["latent", 0]}
    size = {"width": 128, "height": 128, "batch_size": 1}
    return {
        "pipeline": {"class_type": "AsyncDiffLoadEmbeddedPipeline", "inputs": {}},
        "latent": {"class_type": "EmptySD3LatentImage", "inputs": size},
        "calibrate": {"class_type": NODE, "inputs": sockets | SETTINGS | settings},
        "text": {"class_type": "PreviewAny", "inputs": {"source": ["calibrate", 2]}},
    }


def test_it_leaves_a_policy_that_is_listed_and_a_chart_on_the_node(server):
    entry = server.run(made())
    assert "96 of them the teacher's" in entry["outputs"]["text"]["text"][0]
    [chart] = server.images(entry, "calibrate")
    assert chart.width > 600
    assert "calibrated.json" in listed(server)


def test_the_stop_button_keeps_what_was_measured_and_queueing_again_goes_on(server):
    state = server.models / "tpm" / "training" / "stopped" / "calibrate" / "state.pt"
    stopped(server, made(name="stopped", teacher_steps=400, render_batch=1), state.exists)
    assert "stopped.json" not in listed(server)
    with pytest.raises(ExecutionError) as changed:
        server.run(made(name="stopped", teacher_steps=16, render_batch=1))
    assert "teacher_steps was 400 and is now 16" in str(changed.value.entry["status"]["messages"])
    assert "circle" not in str(server.run(made(name="other"))["outputs"]["text"])  # the host is as before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"steps": 1}, "smaller than min"),
        ({"name": "../away"}, "cannot be a file's name"),
        ({"sampler_name": "dpm_adaptive"}, "chooses its own steps"),
        ({"prompt_file": "nothing.txt"}, "There is no file"),
    ],
)
def test_what_cannot_be_read_is_refused_before_it_is_queued(server, settings, reason):
    with pytest.raises(RequestError) as refusal:
        server.queue(made(**settings))
    assert refusal.value.status == 400
    assert reason in str(refusal.value)


def test_conditionings_may_take_the_place_of_clip_and_prompts(server):
    prompt = made(prompts="", name="given")
    inputs = prompt["calibrate"]["inputs"]
    del inputs["clip"]
    for number, colour in enumerate(COLOURS):
        text = {"clip": ["pipeline", 1], "text": f"a {colour} circle"}
        prompt[colour] = {"class_type": "CLIPTextEncode", "inputs": text}
        inputs[f"conditionings.conditioning{number}"] = [colour, 0]
    prompt["none"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["pipeline", 1], "text": ""}}
    inputs["negative"] = ["none", 0]
    assert "calibrated." in server.run(prompt)["outputs"]["text"]["text"][0]
