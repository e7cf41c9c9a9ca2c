"""The shipped workflows of models that nobody loads in a test, on small networks of their families."""

import itertools
import json

import pytest

from support.asynchronous import with_values, without_pack
from support.blueprints import Blueprint, small
from support.graph import to_prompt
from support.logs import complaints
from support.paths import ROOT

pytestmark = pytest.mark.host

SIDES = {"width": 128, "height": 128}
FOUR = {"steps": 4}
SAMPLING = ("AsyncDiffKSampler", "KSampler", "BasicScheduler")
SDXL = dict.fromkeys(SAMPLING, FOUR) | {"EmptyLatentImage": SIDES}
MODELS = {
    "11 SDXL": Blueprint("", "4 channels", {"": "SDXL"}, inner=SDXL),
    "12 SDXL second pass": Blueprint("", "4 channels", {"": "SDXL"}, inner=SDXL),
    "17 Flux.2 dev": Blueprint(
        "", "128 channels", {"": "Flux2"}, inner={"Flux2Scheduler": FOUR | SIDES, "EmptyFlux2LatentImage": SIDES}
    ),
    "33 Pixel-wise SDXL": Blueprint("", "4 channels", {"": "SDXL"}, inner=SDXL, whole=True),
}
STILL = {
    "AsyncDiffKSampler": {"gamma": 0.0},
    "AsyncDiffApply": {"gamma": 0.0},
    "AsyncDiffPixelwiseSampler": {"scale": 0.0},
}
RUNS = itertools.count(1)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_workflow_runs_and_is_stock_where_it_is_switched_off(server, info, new_log, name):
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = small(to_prompt(workflow, info), MODELS[name], info)
    stock, still, moved = (
        reported(server, each) for each in (without_pack(prompt), with_values(prompt, STILL), prompt)
    )
    assert digests(still) == digests(stock)
    for sampler, latent in moved.items():
        assert latent["finite"]
        assert latent["spread"] > 0.01
        assert latent["digest"] != stock[sampler]["digest"]
    assert complaints(new_log()) == []


def reported(server, prompt):
    """What is reported of each sampler's latent, of a run that has saved its image and drawn its charts."""
    for node in prompt.values():
        if node["class_type"] == "StandInReport":
            node["inputs"]["run"] = next(RUNS)
    outputs = server.run(prompt)["outputs"]
    return {key: json.loads(output["report"][0]) for key, output in outputs.items() if "report" in output}


def digests(reports):
    return {sampler: latent["digest"] for sampler, latent in reports.items()}
