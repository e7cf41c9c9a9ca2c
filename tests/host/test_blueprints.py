"""Core's own blueprints and templates with Apply in place, on a running server: every graph people start from."""

import itertools
import json

import pytest
from PIL import Image

from support.asynchronous import with_apply, with_own_samplers
from support.blueprints import TEXT, Blueprint, MissingError, prompt_of
from support.logs import complaints

pytestmark = pytest.mark.host

SMALL = {"width": 64, "height": 64}
FOUR_STEPS = SMALL | {"steps": 4}
SDXL = {"refiner": "SDXLRefiner", "": "SDXL"}
BLUEPRINTS = {
    "Flux.2": Blueprint(
        "Text to Image (Flux.2 Dev).json", "128 channels", {"": "Flux2"}, SMALL | {"value": True},
        {"Flux2Scheduler": {"steps": 4}},
    ),
    "Z-Image": Blueprint("Text to Image (Z-Image-Turbo).json", "16 channels", {"": "ZImage"}, FOUR_STEPS),
    "Z-Image (base)": Blueprint("Text to Image (Z-Image-Base).json", "16 channels", {"": "ZImage"}, FOUR_STEPS),
    "Qwen-Image": Blueprint(
        "Text to Image (Qwen-Image 2512).json", "16 channels", {"": "QwenImage"}, SMALL, {"KSampler": {"steps": 4}},
    ),
    "Wan 2.2": Blueprint(
        "Text to Video (Wan 2.2).json", "Wan 2.1", {"": "WAN21_T2V"}, SMALL | {"length": 5},
    ),
    "LTX-2": Blueprint(
        "Text to Video (LTX-2.3).json", "LTX", {"": "LTXAV"},
        {"value": TEXT, "value_2": 128, "value_3": 128, "value_4": 1, "value_1": 8},
        {"ResizeImagesByLongerEdge": {"longer_edge": 128}},
    ),
    "SDXL": Blueprint("basic_api_example.py", "4 channels", SDXL, inner={"EmptyLatentImage": SMALL, "3": {"steps": 4}}),
    "SDXL (base and refiner)": Blueprint(
        "sdxl_simple_example", "4 channels", SDXL,
        inner={
            "EmptyLatentImage": SMALL, "10": {"steps": 4, "end_at_step": 2}, "11": {"steps": 4, "start_at_step": 2},
        },
    ),
    "SDXL (turbo)": Blueprint(
        "sdxlturbo_example", "4 channels", SDXL, inner={"EmptyLatentImage": SMALL, "SDTurboScheduler": {"steps": 4}},
    ),
    "Ideogram 4": Blueprint(
        "Text to Image (Ideogram v4).json", "128 channels", {"": "Ideogram4"}, {"value": 256, "value_1": 256},
        {"Ideogram4Scheduler": {"steps": 4}},
    ),
    "ACE-Step 1.5": Blueprint(
        "Text to Audio (ACE-Step 1.5).json", "ACE-Step 1.5", {"": "ACEStep15"},
        {"tags": TEXT, "lyrics": TEXT, "value": 2.0}, {"KSampler": {"steps": 4}},
    ),
    "Anima": Blueprint("Text to Image (Anima).json", "16 channels", {"": "Anima"}, FOUR_STEPS),
}  # fmt: skip
RUNS = itertools.count(1)


@pytest.fixture(scope="module")
def picture(server):
    """The picture that core's workflows begin with."""
    Image.linear_gradient("L").convert("RGB").save(server.input / "example.png")


@pytest.fixture
def reported(server, picture):
    """Runs a prompt; what is reported of each sampler's latent, once the run has saved its output."""

    def run(prompt):
        for node in prompt.values():
            if node["class_type"] == "StandInReport":
                node["inputs"]["run"] = next(RUNS)
        outputs = server.run(prompt)["outputs"]
        return {key: json.loads(output["report"][0]) for key, output in outputs.items() if "report" in output}

    return run


def read(name, server, info):
    try:
        return prompt_of(BLUEPRINTS[name], server, info)
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_runs_asynchronously(server, info, new_log, reported, name):
    prompt = read(name, server, info)
    stock, still, moved = (
        reported(prompt), *(reported(with_apply(prompt, info, gamma)) for gamma in (0.0, 1.0)),
    )  # fmt: skip
    assert stock
    assert still == stock
    for sampler, latent in moved.items():
        assert latent["finite"]
        assert latent["spread"] > 0.01
        assert latent["shapes"] == stock[sampler]["shapes"]
        assert latent["digest"] != stock[sampler]["digest"]
    assert complaints(new_log()) == []


def test_experts_with_the_whole_grid_are_our_advanced_sampler(server, info, new_log, reported):
    """Wan 2.2: Apply with the SIGMAS of the whole run beside Asynchronous KSampler (Advanced), to the bit."""
    prompt = read("Wan 2.2", server, info)
    stock, apart = reported(prompt), reported(with_apply(prompt, info, 1.0))
    patched, own = reported(with_apply(prompt, info, 1.0, whole=True)), reported(with_own_samplers(prompt, info, 1.0))
    still = reported(with_own_samplers(prompt, info, 0.0))
    assert still == stock
    assert own == patched
    assert own != apart
    assert complaints(new_log()) == []
