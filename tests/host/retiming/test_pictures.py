"""Pictures that say what made them, over HTTP: saved by core's nodes, read back by Policy from Image."""

import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from support.server import RequestError

pytestmark = pytest.mark.host

PRESET = "shipped: tiny-sd35"
TPM = "shipped: tiny-sd35-tpm"
NUMBERS = itertools.count(1)
OWN = {"gamma": 1.3, "bound": "from policy", "tail_sync": 1, "velocity_coupling": 0.0}


def load(name):
    return {"class_type": "AsyncDiffLoadTPM", "inputs": {"name": name, "readout": "mode"}}


def constant(deviation):
    return {"class_type": "AsyncDiffConstantDeviation", "inputs": {"deviation": deviation}}


def from_image(**inputs):
    inputs = {"image": "", "use": "policy, if it is here", "sampler": ""} | inputs
    return {"class_type": "AsyncDiffPolicyFromImage", "inputs": inputs}


def graph(policy, batch=1, seed=7, **sampler):
    """Model, texts, one sampler "s" by the policy "p", decoded as "d"."""
    settings = {"model": ["m", 0], "positive": ["t", 0], "negative": ["n", 0], "latent_image": ["e", 0]}
    settings |= {"seed": seed, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    text = {"clip": ["m", 1], "text": "a large red circle on a starry background"}
    return {
        "m": {"class_type": "AsyncDiffLoadEmbeddedPipeline", "inputs": {}},
        "t": {"class_type": "CLIPTextEncode", "inputs": text},
        "n": {"class_type": "CLIPTextEncode", "inputs": text | {"text": ""}},
        "e": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 128, "height": 128, "batch_size": batch}},
        "p": policy,
        "s": {"class_type": "AsyncDiffKSampler", "inputs": settings | OWN | {"policy": ["p", 0]} | sampler},
        "d": {"class_type": "VAEDecode", "inputs": {"samples": ["s", 0], "vae": ["m", 2]}},
    }


def through_patch(prompt):
    """The same run by Apply Asynchronous Timesteps and core's KSampler."""
    settings = prompt["s"]["inputs"]
    own = {name: settings.pop(name) for name in (*OWN, "policy")}
    patch = {"class_type": "AsyncDiffApply", "inputs": own | {"model": ["m", 0]}}
    return prompt | {"a": patch, "s": {"class_type": "KSampler", "inputs": settings | {"model": ["a", 0]}}}


def made(server, prompt, images="d", extra=None):
    """Run, save, and the files in the output folder."""
    prefix = f"shared-{next(NUMBERS)}"
    save = {"class_type": "SaveImage", "inputs": {"images": [images, 0], "filename_prefix": prefix}}
    request = {"prompt": prompt | {"save": save}, **({"extra_data": extra} if extra else {})}
    entry = server.wait(server.post("/prompt", request)["prompt_id"])
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    return sorted(server.output.glob(f"{prefix}_*.png")), entry


def one(server, prompt, **options):
    return made(server, prompt, **options)[0][0]


def about(file):
    with Image.open(file) as image:
        return json.loads(image.info["asyncdiff"])


def same(*files):
    first, *others = (np.asarray(Image.open(file)) for file in files)
    return all(np.array_equal(first, other) for other in others)


def cached(entry):
    return next(body["nodes"] for kind, body in entry["status"]["messages"] if kind == "execution_cached")


@pytest.fixture
def friends_tpm(server, tmp_path):
    """A TPM that is not shipped, in models/tpm."""
    from asyncdiff.tpm.policies import find_policy, save_policy

    policy = find_policy("tiny-sd35-tpm")
    for weight in policy.tpm.parameters():
        weight.data *= 1.1
    file = server.models / "tpm" / "friend.safetensors"
    save_policy(file, policy)
    yield file
    file.unlink(missing_ok=True)


@pytest.mark.parametrize("policy", [load(PRESET), constant(0.17), load("shipped: tiny-sd35-curve")])
@pytest.mark.parametrize("use", ["policy, if it is here", "recorded decisions"])
def test_a_static_policy_comes_back_to_the_bit(server, policy, use):
    file = one(server, graph(policy, batch=2))
    again = one(server, graph(from_image(path=file.name, use=use), batch=2, gamma=["p", 2]))
    assert same(file, again)
    assert not same(file, one(server, graph(constant(0.0), batch=2)))


def test_the_workflow_stays_and_the_entry_is_small(server):
    file = one(server, graph(constant(0.17)), extra={"extra_pnginfo": {"workflow": {"nodes": []}}})
    with Image.open(file) as image:
        assert json.loads(image.info["workflow"]) == {"nodes": []}
        assert "AsyncDiffConstantDeviation" in image.info["prompt"]
        assert len(image.info["asyncdiff"]) < 3000
    [(node, run)] = about(file)["samplers"].items()
    assert (node, run["node"], run["policy"]["deviation"]) == ("s", "AsyncDiffKSampler", 0.17)
    assert run["trace"]["retiming"]["gamma"] == 1.3


@pytest.mark.parametrize("patched", [False, True])
def test_a_sampler_from_the_cache_is_in_the_picture(server, patched):
    prompt = graph(constant(0.21), seed=100 + patched)
    prompt = through_patch(prompt) if patched else prompt
    first, _ = made(server, prompt)
    second, entry = made(server, prompt)
    assert "s" in cached(entry)
    assert about(first[0]) == about(second[0])
    assert about(first[0])["samplers"]["s"]["policy"]["deviation"] == 0.21


def test_prompts_that_wait_take_what_the_one_before_them_did(server):
    prompt = graph(constant(0.22), seed=55, steps=40)
    saves = [
        {"class_type": "SaveImage", "inputs": {"images": ["d", 0], "filename_prefix": f"waits-{n}"}} for n in range(3)
    ]
    queued = [server.queue(prompt | {"save": save}) for save in saves]
    entries = [server.wait(prompt_id) for prompt_id in queued]
    assert ["s" in cached(entry) for entry in entries] == [False, True, True]
    files = [next(iter(server.output.glob(f"waits-{n}_*.png"))) for n in range(3)]
    assert about(files[0]) == about(files[1]) == about(files[2])
    assert about(files[0])["samplers"]["s"]["trace"]["t_star"]


def test_a_patched_model_tells_of_each_sampler_that_used_it(server):
    """Apply is cached, its runs are not: the entry is of the sampler of this prompt."""
    for steps in (3, 5):
        [(node, run)] = about(one(server, through_patch(graph(constant(0.23), steps=steps))))["samplers"].items()
        assert (node, run["node"], len(run["trace"]["t_star"])) == ("s", "KSampler", steps)


def test_a_picture_of_the_stock_sampler_holds_nothing(server):
    prompt = graph(constant(0.0))
    settings = {name: value for name, value in prompt["s"]["inputs"].items() if name not in (*OWN, "policy")}
    file = one(server, prompt | {"s": {"class_type": "KSampler", "inputs": settings}})
    with Image.open(file) as image:
        assert "asyncdiff" not in image.info
    assert_refused(server, graph(from_image(path=file.name)), "holds no policy of AsyncDiff")


def assert_refused(server, prompt, told):
    """Before anything is queued, in one sentence."""
    with pytest.raises(RequestError) as refusal:
        server.queue(prompt | {"save": {"class_type": "PreviewImage", "inputs": {"images": ["d", 0]}}})
    errors = refusal.value.body["node_errors"]["p"]["errors"]
    assert all(told in f"{error['message']} {error['details']}" for error in errors)


def test_a_tpm_is_repeated_by_its_file_or_by_its_decisions(server, friends_tpm):
    file = one(server, graph(load("friend.safetensors"), batch=2))
    run = about(file)["samplers"]["s"]
    assert run["file"]["name"] == "friend.safetensors"
    assert run["policy"]["card"]["backbone"] == "sd3"
    found = friends_tpm.rename(friends_tpm.with_name("other-name.safetensors"))
    assert same(file, one(server, graph(from_image(path=file.name), batch=2)))
    found.unlink()
    assert_refused(server, graph(from_image(path=file.name), batch=2), run["file"]["sha256"])
    decided = from_image(path=file.name, use="recorded decisions")
    assert same(file, one(server, graph(decided, batch=2)))


def test_another_grid_or_batch_is_told(server):
    file = one(server, graph(load(TPM), batch=2))
    for changed, told in (({"steps": 5}, "use the same scheduler and steps"), ({"batch": 3}, "a batch of 2")):
        prompt = graph(from_image(path=file.name, use="recorded decisions"), **({"batch": 2} | changed))
        save = {"class_type": "PreviewImage", "inputs": {"images": ["d", 0]}}
        entry = server.wait(server.queue(prompt | {"save": save}))
        [error] = [body for kind, body in entry["status"]["messages"] if kind == "execution_error"]
        assert told in error["exception_message"]


def test_several_samplers_are_told_apart(server):
    prompt = graph(constant(0.1))
    second = {"class_type": "AsyncDiffKSampler", "inputs": prompt["s"]["inputs"] | {"policy": ["q", 0]}}
    second["inputs"] |= {"latent_image": ["s", 0], "denoise": 0.5}
    decode = {"class_type": "VAEDecode", "inputs": {"samples": ["s2", 0], "vae": ["m", 2]}}
    file = one(server, prompt | {"q": constant(0.3), "s2": second, "d": decode})
    assert about(file)["samplers"].keys() == {"s", "s2"}
    assert_refused(server, graph(from_image(path=file.name)), "Several samplers made this picture")
    text = {"class_type": "PreviewAny", "inputs": {"source": ["p", 3]}}
    entry = server.run({"p": from_image(path=file.name, sampler="s2"), "text": text})
    assert entry["outputs"]["text"]["text"][0].startswith("policy constant (constant)\n4 steps\ngamma 1.3, bound 0.5")


def test_a_picture_of_the_input_folder_is_read_and_a_damaged_one_refused(server):
    file = one(server, graph(constant(0.12)))
    shutil.copy(file, server.input / "friend.png")
    assert same(file, one(server, graph(from_image(image="friend.png"))))
    (server.input / "cut.png").write_bytes(file.read_bytes()[:400])
    assert_refused(server, graph(from_image(image="cut.png")), "cut.png")
    for name in ("../models/x.png", "/etc/passwd", "../output/../models/x.png"):
        assert_refused(server, graph(from_image(path=name)), "outside of the folder output")
        assert_refused(server, graph(from_image(image=name)), "outside of the folder input")
    assert_refused(server, graph(from_image()), "Choose a picture")


def test_moving_pictures_are_read(server):
    prompt = graph(constant(0.14), batch=2)
    common = {"images": ["d", 0], "filename_prefix": "moving", "fps": 6.0}
    webp = {"class_type": "SaveAnimatedWEBP", "inputs": common | {"lossless": True, "quality": 80, "method": "default"}}
    png = {"class_type": "SaveAnimatedPNG", "inputs": common | {"compress_level": 4}}
    server.run(prompt | {"webp": webp, "png": png})
    for ending in ("webp", "png"):
        file = next(iter(server.output.glob(f"moving_*.{ending}")))
        text = {"class_type": "PreviewAny", "inputs": {"source": ["p", 3]}}
        entry = server.run({"p": from_image(path=file.name), "text": text})
        assert entry["outputs"]["text"]["text"][0].startswith("policy constant")


def test_a_prompt_of_no_form_is_refused_by_the_host(server):
    """Whatever arrives as a prompt is answered by the host, not by us."""
    for prompt in ({"a": 3}, {"a": {"class_type": "AsyncDiffApply", "inputs": {"model": ["a", 0]}}}, [], None):
        with pytest.raises(RequestError):
            server.queue(prompt)
    log = server.log()
    assert "on_prompt_handler" not in log
