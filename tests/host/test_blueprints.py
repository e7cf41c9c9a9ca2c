"""Core's own blueprints and templates with Apply in place, on a running server: every graph people start from."""

import itertools
import json

import pytest
from PIL import Image

from support.asynchronous import DEVIATION, with_apply, with_own_samplers
from support.blueprints import PICTURE, TEXT, Blueprint, MissingError, prompt_of
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
    "Flux.2 (edit)": Blueprint(
        "Image Edit (Flux.2 Dev).json", "128 channels", {"": "Flux2"}, {"pixels": PICTURE},
        {"Flux2Scheduler": {"steps": 4}},
    ),
    "Flux.2 Klein (edit)": Blueprint(
        "Image Edit (Flux.2 Klein 4B).json", "128 channels", {"": "Flux2"}, {"image": PICTURE},
        {"Flux2Scheduler": {"steps": 4}, "ImageScaleToTotalPixels": {"megapixels": 0.01}},
    ),
    "Flux.1 (fill)": Blueprint(
        "Image Inpainting (Flux.1 Fill Dev).json", "16 channels", {"": "FluxInpaint"},
        {"pixels": PICTURE, "mask": PICTURE}, {"KSampler": {"steps": 4}},
    ),
    "Qwen-Image (layers)": Blueprint(
        "Image to Layers(Qwen-Image-Layered).json", "Wan 2.1", {"": "QwenImage"},
        {"image": PICTURE, "steps": 4, "layers": 2},
    ),
    "Lumina 2": Blueprint(
        "Text to Image (NetaYume Lumina).json", "16 channels", {"": "Lumina2"}, SMALL, {"KSampler": {"steps": 4}},
    ),
    "Wan 2.2 (from a picture)": Blueprint(
        "Image to Video (Wan 2.2).json", "Wan 2.1", {"": "WAN21_I2V"}, SMALL | {"length": 5, "start_image": PICTURE},
    ),
    "LTX-2 (from a picture)": Blueprint(
        "Image to Video (LTX-2.3).json", "LTX", {"": "LTXAV"},
        {"input": PICTURE, "value": TEXT, "value_2": 128, "value_3": 128, "value_4": 1, "value_5": 8},
        {"ResizeImagesByLongerEdge": {"longer_edge": 128}},
    ),
    "LTX-2 (first and last frame)": Blueprint(
        "First-Last-Frame to Video (LTX-2.3).json", "LTX", {"": "LTXAV"},
        {"input": PICTURE, "input_1": PICTURE, "value": 128, "value_1": 128, "value_2": 2, "value_3": 8},
    ),
    "Stable Audio 3": Blueprint(
        "Audio Generation (Stable Audio 3 Medium Base).json", "Stable Audio 3", {"": "StableAudio3"},
        {"user_input": TEXT, "duration": 2.0, "use_reprompt": False}, {"KSampler": {"steps": 4}},
    ),
}  # fmt: skip
RUNS = itertools.count(1)


@pytest.fixture(scope="module")
def picture(server):
    """The picture that core's workflows begin with."""
    slope = Image.linear_gradient("L").resize((64, 64))
    Image.merge("RGBA", [slope, slope.rotate(90), slope, slope]).save(server.input / "example.png")


@pytest.fixture
def reported(server, picture):
    """Runs a prompt; what is reported of each sampler's latent, once the run has saved its output."""

    def run(prompt):
        for node in prompt.values():
            if node["class_type"] == "StandInReport":
                node["inputs"]["run"] = next(RUNS)
        outputs = server.run(prompt)["outputs"]
        assert any({"images", "audio"} & output.keys() for output in outputs.values())
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
    assert digests(still) == digests(stock)
    for sampler, latent in moved.items():
        assert latent["finite"]
        assert latent["spread"] > 0.01
        assert latent["shapes"] == stock[sampler]["shapes"]
        assert latent["digest"] != stock[sampler]["digest"]
        assert latent["proposed"] == pytest.approx([0] + [DEVIATION] * (len(latent["proposed"]) - 1))
    assert complaints(new_log()) == []


def digests(reports):
    return {sampler: latent["digest"] for sampler, latent in reports.items()}


def test_experts_with_the_whole_grid_are_our_advanced_sampler(server, info, new_log, reported):
    """Wan 2.2: Apply with the SIGMAS of the whole run beside Asynchronous KSampler (Advanced), to the bit."""
    prompt = read("Wan 2.2", server, info)
    stock, apart = reported(prompt), reported(with_apply(prompt, info, 1.0))
    patched, own = reported(with_apply(prompt, info, 1.0, whole=True)), reported(with_own_samplers(prompt, info, 1.0))
    still = reported(with_own_samplers(prompt, info, 0.0))
    assert digests(still) == digests(stock)
    assert digests(own) == digests(patched)
    assert digests(own) != digests(apart)
    assert [latent["proposed"][0] for latent in patched.values()] == pytest.approx([0, DEVIATION])
    assert complaints(new_log()) == []
