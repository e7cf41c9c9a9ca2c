"""Train TPM and Search Policy on a running server, over HTTP: what they leave, stop and go on, and what is refused."""

import json

import pytest

from support.graph import to_prompt
from support.server import ROOT, ExecutionError, RequestError
from support.training_server import listed, stopped

pytestmark = pytest.mark.host

SMALL = {"steps": 3, "width": 64, "height": 64}
TRAINING = SMALL | {"iterations": 3, "group": 4, "prompts_per_iteration": 1, "probes": 2, "probe_every": 2}
SEARCH = SMALL | {"prompts_per_candidate": 2, "held_out": 2, "generations": 1, "population": 3, "elite": 1}
TRAIN, FIND = "AsyncDiffTrainTPM", "AsyncDiffSearchPolicy"


@pytest.fixture
def make(info):
    """The prompt of a workshop node alone, as its workflow has it, with smaller settings; its text is shown."""

    def go(kind=TRAIN, **settings):
        workflow, small = {TRAIN: ("42 Train a policy", TRAINING), FIND: ("41 Search a policy", SEARCH)}[kind]
        everything = read(workflow, info)
        [key] = [key for key, node in everything.items() if node["class_type"] == kind]
        wanted = (kind, "AsyncDiffLoadEmbeddedPipeline", "AsyncDiffLoadRewardModel", "PreviewAny")
        prompt = {k: node for k, node in everything.items() if node["class_type"] in wanted}
        prompt["workshop"] = prompt.pop(key)
        for node in prompt.values():
            if node["class_type"] == "PreviewAny":
                node["inputs"]["source"] = ["workshop", 4]
        prompt["workshop"]["inputs"] |= small | settings
        return prompt

    return go


def read(name, info):
    return to_prompt(json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8")), info)


def said(entry):
    return next(text for output in entry["outputs"].values() for text in output.get("text", []))


def failure(server, prompt):
    with pytest.raises(ExecutionError) as failed:
        server.run(prompt)
    messages = failed.value.entry["status"]["messages"]
    return next(body["exception_message"] for kind, body in messages if kind == "execution_error")


@pytest.fixture(scope="module")
def trained(server, info):
    """Nothing yet; the first test that asks for it trains."""
    return {}


@pytest.fixture
def served(server, make, trained):
    """A training of the name "served" that is done, and its entry in the history."""
    if not trained:
        trained["entry"] = server.run(make(name="served"))
    return trained["entry"]


@pytest.mark.parametrize("readout", ["mode", "sample"])
def test_the_trained_tpm_is_listed_and_samples(server, info, served, readout):
    assert "3 of 3 iterations" in said(served)
    assert "served.safetensors" in listed(server)
    assert not [name for name in listed(server) if name.startswith("training")]
    assert (server.models / "tpm" / "training" / "served" / "report.html").is_file()
    quick = read("01 Quickstart, no download", info)
    for node in quick.values():
        if node["class_type"] == "AsyncDiffLoadTPM":
            node["inputs"] |= {"name": "served.safetensors", "readout": readout}
        if node["class_type"] == "SaveImage":
            node["inputs"]["filename_prefix"] = f"served-{readout}"
    assert server.images(server.run(quick))


def test_the_report_is_shown_on_the_node(server, served):
    [report] = server.images(served, "workshop")
    assert report.width > 1000


def test_a_search_writes_a_curve_that_is_listed(server, make):
    entry = server.run(make(FIND, name="found"))
    assert "Gain on held-out prompts" in said(entry)
    assert "found.json" in listed(server)


def journal(server, name):
    file = server.models / "tpm" / "training" / name / "journal.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_the_stop_button_keeps_the_run_and_queueing_again_goes_on(server, make):
    stopped(server, make(name="stopped", iterations=5000), lambda: len(journal(server, "stopped")) >= 3)
    assert "stopped.safetensors" not in listed(server)
    before = journal(server, "stopped")
    more = len(before) + 2
    assert f"{more} of {more} iterations" in said(server.run(make(name="stopped", iterations=more)))
    after = journal(server, "stopped")
    assert [record["iteration"] for record in after] == list(range(1, more + 1))
    assert [record["D"] for record in after[: len(before) - 1]] == [record["D"] for record in before[:-1]]
    assert "stopped.safetensors" in listed(server)


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        (TRAIN, {"prompts": ""}, "There are no prompts"),
        (TRAIN, {"name": "../away"}, "cannot be a file's name"),
        (TRAIN, {"prompt_file": "nothing.txt"}, "There is no file"),
        (TRAIN, {"prompt_file": "../../etc/passwd"}, "outside the input folder"),
        (TRAIN, {"steps": 1}, "smaller than min"),
        (TRAIN, {"learning_rate": 1.0}, "bigger than max"),
        (FIND, {"prompts": " "}, "There are no prompts"),
        (FIND, {"population": 1}, "smaller than min"),
    ],
)
def test_what_cannot_be_read_is_refused_before_it_is_queued(server, make, kind, settings, reason):
    with pytest.raises(RequestError) as refusal:
        server.queue(make(kind, **settings))
    assert refusal.value.status == 400
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        (TRAIN, {"prompts": "a red circle\na lighthouse"}, "lighthouse"),
        (TRAIN, {"noises": 3}, "cannot be split over 3 noises"),
        (FIND, {"elite": 3}, "larger population"),
        (FIND, {"prompts": "a red circle"}, "too few to search on"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(server, make, kind, settings, reason):
    assert reason in failure(server, make(kind, name="wrong", **settings))
    assert not (server.models / "tpm" / "training" / "wrong").exists()


@pytest.mark.parametrize("kind", [TRAIN, FIND])
def test_without_a_reward_it_says_what_to_connect(server, make, kind):
    prompt = make(kind, name="wrong")
    del prompt["workshop"]["inputs"]["rewards.reward0"]
    assert "connect a Load Reward Model" in failure(server, prompt)


def test_without_a_clip_it_says_what_to_connect(server, make):
    prompt = make(name="wrong")
    del prompt["workshop"]["inputs"]["clip"]
    assert "Connect a CLIP" in failure(server, prompt)


def test_a_model_whose_sigma_is_no_time_is_refused(server, make):
    prompt = make(name="wrong")
    inputs = prompt["workshop"]["inputs"]
    settings = {"model": inputs["model"], "sampling": "img_to_img", "zsnr": False}
    prompt["noise"] = {"class_type": "ModelSamplingDiscrete", "inputs": settings}
    inputs["model"] = ["noise", 0]
    assert "σ is no time" in failure(server, prompt)


def test_a_model_that_predicts_noise_is_searched(server, make):
    prompt = make(FIND, name="noise", generations=0)
    inputs = prompt["workshop"]["inputs"]
    settings = {"model": inputs["model"], "sampling": "eps", "zsnr": False}
    prompt["eps"] = {"class_type": "ModelSamplingDiscrete", "inputs": settings}
    inputs["model"] = ["eps", 0]
    assert "over the best constant" in said(server.run(prompt))


def test_a_changed_setting_is_named(server, make, served):
    assert "group was 4 and is now 2" in failure(server, make(name="served", group=2))
