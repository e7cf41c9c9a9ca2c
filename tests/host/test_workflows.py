"""The shipped workflows and the pack's nodes on a running server, over HTTP: pictures, refusals, interruptions."""

import itertools
import json
import re
import time
from urllib.parse import quote

import numpy as np
import pytest

from support import reward_stand_ins, stand_ins, wan_stand_ins
from support.asynchronous import with_core_samplers, with_values
from support.graph import to_prompt
from support.logs import complaints
from support.server import ROOT, RequestError

pytestmark = pytest.mark.host

FOLDER = ROOT / "workflows"
EMBEDDED = {
    "01 Quickstart, no download": (384, 384),
    "03 KSampler Advanced in two parts": (3 * (2 * 128 + 8), 384),
    "21 Explore gamma": None,  # a page; as large as its text needs
    "02 Image to image": (3 * (2 * 128 + 8), 384),
    "22 Coming from Detail Daemon": (3 * (3 * 128 + 2 * 8), 384),
    "23 Best of four": (384, 384),
    "31 Pixel-wise from words": (3 * (3 * 128 + 2 * 8), 384),
    "32 Pixel-wise from masks": (384, 384),
    "42 Train a policy": (384, 384),
    "41 Search a policy": (384, 384),
    "43 Calibrate a policy": (3 * (2 * 128 + 8), 384),
}
OFFICIAL = {
    "13 SD3.5 Medium": (256, 256),  # small: 1024 × 1024 would take minutes
    "14 SD3.5 Medium 512": (512, 512),
    "15 Flux.1 dev": (256, 256),
    "16 Flux.1 dev 512": (512, 512),
    "24 Best of four with SD3.5": (512, 512),
}
MODELS = ("11 SDXL", "12 SDXL second pass", "17 Flux.2 dev", "33 Pixel-wise SDXL")  # see test_model_workflows.py
VIDEO = "18 Wan 2.2 video"
TITLED = ("AsyncDiffDeviationPlot", "AsyncDiffCompositeReward")
CLIP_LOADERS = ("TripleCLIPLoader", "DualCLIPLoader", "CLIPLoader")
PROMPT = "a large red circle on a starry background"
RUNS = itertools.count(1)


@pytest.fixture
def quick(info):
    """The quickstart's prompt, without the nodes behind the image."""
    return without_output(read("01 Quickstart, no download", info), "AsyncDiffDeviationPlot")


def read(name, info):
    return to_prompt(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")), info)


def without_output(prompt, kind):
    return {key: node for key, node in prompt.items() if node["class_type"] != kind}


def anew(prompt):
    """The prompt with new names for its outputs: the host reports no pictures of an output that it has cached."""
    run = next(RUNS)
    for node in prompt.values():
        if node["class_type"] == "SaveImage":
            node["inputs"]["filename_prefix"] += f"-{run}"
        if node["class_type"] in TITLED:
            node["inputs"]["title"] += f" {run}"
    return prompt


def only(prompt, kind):
    """(id, inputs) of the one node of a kind."""
    [(key, node)] = [(key, node) for key, node in prompt.items() if node["class_type"] == kind]
    return key, node["inputs"]


def pixels(server, entry, node=None):
    return [np.asarray(image.convert("RGB"), dtype=int) for image in server.images(entry, node)]


def saved(server, prompt, entry):
    key, _ = only(prompt, "SaveImage")
    return pixels(server, entry, key)


def assert_clean(entry, log):
    assert entry["status"]["completed"]
    assert complaints(log) == []


def test_every_workflow_is_run_here_and_has_its_picture():
    names = {file.stem for file in FOLDER.glob("*.json")}
    assert names == EMBEDDED.keys() | OFFICIAL.keys() | {VIDEO, *MODELS}
    assert names == {file.stem for file in FOLDER.glob("*.jpg")}


def test_the_template_browser_finds_each_workflow_and_its_picture(server):
    """Under the folder's name; the names have spaces, commas and dots."""
    names = sorted(server.get("/workflow_templates")["asyncdiff"])
    assert names == sorted(file.stem for file in FOLDER.glob("*.json"))
    for name in names:
        place = f"/api/workflow_templates/asyncdiff/{quote(name)}"
        assert server.get(f"{place}.json")["nodes"]
        assert server.fetch(f"{place}.jpg") == (FOLDER / f"{name}.jpg").read_bytes()


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_workflow_runs_as_it_is(server, info, new_log, name):
    prompt = anew(read(name, info))
    entry = server.run(prompt)
    [image] = saved(server, prompt, entry)
    assert image.std() > 10
    size = image.shape[1], image.shape[0]
    assert size == EMBEDDED[name] if EMBEDDED[name] else min(size) > 500
    for key, node in prompt.items():
        if node["class_type"] in TITLED:
            assert [chart.std() > 10 for chart in pixels(server, entry, key)] == [True]
    assert_clean(entry, new_log())


def test_two_parts_without_gamma_are_stock_and_one_ordinary_run(server, info):
    """To the bit what core's samplers make in two parts; of the run in one piece, all but its rounding."""
    prompt = anew(read("03 KSampler Advanced in two parts", info))
    [moved] = saved(server, prompt, server.run(prompt))
    prompt = anew(with_values(prompt, {"AsyncDiffKSamplerAdvanced": {"gamma": 0.0}}))
    [still] = saved(server, prompt, server.run(prompt))
    prompt = anew(with_core_samplers(without_output(prompt, "AsyncDiffDeviationPlot")))
    [stock] = saved(server, prompt, server.run(prompt))
    inner, after = np.s_[:, 12:372], np.s_[:, 420:780]  # what the white between the two does not reach
    assert abs(moved[inner] - moved[after]).mean() > 0.5
    assert abs(still[inner] - still[after]).max() <= 2
    assert np.array_equal(still, stock)


def test_synchronous_detail_daemon_and_asyncdiff_are_three_pictures(server, info):
    prompt = anew(read("22 Coming from Detail Daemon", info))
    [image] = saved(server, prompt, server.run(prompt))
    stock, coupled, asynchronous = (image[:, 3 * 136 * n : 3 * 136 * n + 384] for n in range(3))
    for one, other in ((stock, coupled), (coupled, asynchronous), (stock, asynchronous)):
        assert abs(one - other).mean() > 0.5


@pytest.fixture(scope="module")
def official_files(server):
    """Tiny models of the same families under the official names, where the workflows' notes tell people to put them."""
    stand_ins.write_sd35(server.models / "checkpoints" / "sd3.5_medium.safetensors")
    stand_ins.write_flux(server.models / "diffusion_models" / "flux1-dev.safetensors")
    stand_ins.write_vae(server.models / "vae" / "ae.safetensors")
    reward_stand_ins.write_all(server.models / "rewards")


@pytest.mark.usefixtures("official_files")
@pytest.mark.parametrize("name", OFFICIAL)
def test_an_official_workflow_runs_on_a_small_model_of_its_family(server, info, new_log, name):
    """Only the text encoders are replaced: their sizes are fixed in the host, and T5 alone has 10 GB."""
    prompt = with_embedded_clip(anew(read(name, info)))
    _, latent = only(prompt, "EmptySD3LatentImage")
    latent["width"], latent["height"] = OFFICIAL[name]
    entry = server.run(prompt)
    [image] = saved(server, prompt, entry)
    assert (image.shape[1], image.shape[0]) == OFFICIAL[name]
    assert image.std() > 2
    assert_clean(entry, new_log())


@pytest.fixture(scope="module")
def wan_files(comfy, server):
    """Two small experts, and the video autoencoder."""
    for seed, level in enumerate(("high", "low")):
        name = f"wan2.2_t2v_{level}_noise_14B_fp8_scaled.safetensors"
        wan_stand_ins.write_wan(server.models / "diffusion_models" / name, seed)
    wan_stand_ins.write_wan_vae(server.models / "vae" / "wan_2.1_vae.safetensors")


@pytest.mark.usefixtures("wan_files")
def test_two_experts_make_one_video(server, info, new_log):
    """Small: 4 steps, 64 × 64 pixels, 5 frames. The trace shows both parts, each within its own noise levels."""
    prompt = with_embedded_clip(anew(read(VIDEO, info)))
    for node in prompt.values():
        if node["class_type"] == "AsyncDiffKSamplerAdvanced":
            first = node["inputs"]["start_at_step"] == 0
            node["inputs"] |= {"steps": 4, "end_at_step": 2} if first else {"steps": 4, "start_at_step": 2}
        if node["class_type"] == "EmptyHunyuanLatentVideo":
            node["inputs"] |= {"width": 64, "height": 64, "length": 5}
    chart, _ = only(prompt, "AsyncDiffDeviationPlot")
    prompt["text"] = {"class_type": "PreviewAny", "inputs": {"source": [chart, 2]}}
    entry = server.run(prompt)
    assert_clean(entry, new_log())
    trace = json.loads(entry["outputs"]["text"]["text"][0])
    assert trace["deviation"] == pytest.approx([0, 0.2, 0.2, 0.2])
    assert trace["sigmas"] == pytest.approx([1, 0.9375, 0.8333, 0.625, 0], abs=1e-3)
    assert trace["t_star"][2] == pytest.approx(0.8125, abs=1e-3)


def with_embedded_clip(prompt):
    """The CLIP of Load Embedded Pipeline in place of the official encoders, and words that it knows."""
    [clip] = [key for key, node in prompt.items() if node["class_type"] in CLIP_LOADERS]
    prompt[clip] = {"class_type": "AsyncDiffLoadEmbeddedPipeline", "inputs": {}}
    for node in prompt.values():
        if node["class_type"] == "CLIPTextEncode":
            node["inputs"] = {"clip": [clip, 1], "text": PROMPT if node["inputs"]["text"] else ""}
    return prompt


@pytest.mark.parametrize("name", [*OFFICIAL, VIDEO, *MODELS])
def test_the_files_are_found_where_the_note_says(server, name):
    """Each file of a loader is in the note and in the front end's list of models, with the folder the loader reads."""
    nodes = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["nodes"]
    [note] = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    for node in nodes:
        models = node["properties"].get("models", [])
        values = [value for value in node["widgets_values"] if str(value).endswith(".safetensors")]
        assert values == [model["name"] for model in models]
        for model in models:
            assert f"[{model['name']}]({model['url']})" in note
            assert f"**models/{model['directory']}/**" in note
            assert model["name"] in offered(server, node["type"], model)


def offered(server, kind, model):
    """The files a loader offers when there is one of this name in this folder."""
    file = server.models / model["directory"] / model["name"]
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists()
    file.touch()
    try:
        inputs = server.object_info(kind)["input"]["required"].values()
        return [name for spec in inputs for name in (spec[0] if isinstance(spec[0], list) else spec[1]["options"])]
    finally:
        if new:
            file.unlink()


@pytest.mark.parametrize(
    ("workflow", "kind", "values", "reason"),
    [
        ("01 Quickstart, no download", "AsyncDiffKSampler", {"gamma": 3.0}, "bigger than max"),
        ("01 Quickstart, no download", "AsyncDiffKSampler", {"tail_sync": -1}, "smaller than min"),
        (
            "01 Quickstart, no download",
            "AsyncDiffLoadTPM",
            {"name": "shipped: sd36"},
            "there is no policy 'shipped: sd36'",
        ),
        ("21 Explore gamma", "AsyncDiffGammaSweep", {"gammas": "a, b"}, '"a, b" is not a list of γ values'),
        ("21 Explore gamma", "AsyncDiffGammaSweep", {"gammas": "1, 11"}, "from −10 to 10"),
        (
            "22 Coming from Detail Daemon",
            "AsyncDiffDeviationCurve",
            {"curve": {"points": [[0, 0.5], ["x", 0.5]], "interpolation": "linear"}},
            "the curve cannot be read",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_before_it_is_queued(server, info, workflow, kind, values, reason):
    prompt = read(workflow, info)
    key, inputs = only(prompt, kind)
    inputs.update(values)
    with pytest.raises(RequestError) as refusal:
        server.queue(prompt)
    assert refusal.value.status == 400
    errors = refusal.value.body["node_errors"][key]["errors"]
    assert all(reason in f"{error['message']} {error['details']}".lower() for error in errors)


def test_gamma_zero_is_the_stock_sampler_to_the_bit(server, quick):
    """Three samplers in one prompt; the pictures before anything enlarges them."""
    _, settings = only(quick, "AsyncDiffKSampler")
    own = {"policy", "gamma", "bound", "tail_sync", "velocity_coupling"}
    stock = {name: value for name, value in settings.items() if name not in own}
    still = {name: value for name, value in settings.items() if name in own} | {"gamma": 0.0}
    patch = {"class_type": "AsyncDiffApply", "inputs": still | {"model": stock["model"]}}
    samplers = {
        "stock": {"class_type": "KSampler", "inputs": stock},
        "node": {"class_type": "AsyncDiffKSampler", "inputs": stock | still},
        "patch": {"class_type": "KSampler", "inputs": stock | {"model": ["patched", 0]}},
    }
    _, decode = only(quick, "VAEDecode")
    prompt = without_output(quick, "SaveImage") | samplers | {"patched": patch}
    for name in samplers:
        decoder = {"class_type": "VAEDecode", "inputs": decode | {"samples": [name, 0]}}
        prompt |= {f"{name} decoded": decoder, f"{name} shown": preview(f"{name} decoded")}
    prompt |= {"moved": preview(only(quick, "VAEDecode")[0])}
    entry = server.run(prompt)
    shown = {name: pixels(server, entry, name)[0] for name in ("stock shown", "node shown", "patch shown", "moved")}
    assert np.array_equal(shown["node shown"], shown["stock shown"])
    assert np.array_equal(shown["patch shown"], shown["stock shown"])
    assert not np.array_equal(shown["moved"], shown["stock shown"])


def preview(node):
    return {"class_type": "PreviewImage", "inputs": {"images": [node, 0]}}


def test_a_run_after_an_interrupted_one_is_as_on_a_fresh_server(server, quick, new_log):
    """The patched model is cached between the two, so whatever the first left in it would show in the second."""
    key, settings = only(quick, "AsyncDiffKSampler")
    own = {name: settings.pop(name) for name in ("policy", "gamma", "bound", "tail_sync", "velocity_coupling")}
    quick["patch"] = {"class_type": "AsyncDiffApply", "inputs": own | {"model": settings["model"]}}
    quick[key] = {"class_type": "KSampler", "inputs": settings | {"model": ["patch", 0]}}

    settings_of(quick, key)["steps"] = 2000
    long = server.queue(quick)
    wait_until(lambda: re.search(r"\b[1-9]\d*/2000\b", new_log()))
    server.interrupt()
    stopped = server.wait(long)["status"]
    assert "execution_interrupted" in [kind for kind, _ in stopped["messages"]]

    settings_of(quick, key)["steps"] = 8
    after = server.run(quick)
    assert "patch" in cached(after)
    server.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(2)
    fresh = server.run(quick)
    assert cached(fresh) == []
    [one], [other] = (saved(server, quick, entry) for entry in (after, fresh))
    assert np.array_equal(one, other)


def settings_of(prompt, key):
    return prompt[key]["inputs"]


def cached(entry):
    """Nodes that a run took from the one before."""
    return next(body["nodes"] for kind, body in entry["status"]["messages"] if kind == "execution_cached")


def wait_until(question, seconds=300):
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.1)
