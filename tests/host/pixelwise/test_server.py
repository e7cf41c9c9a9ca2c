"""Pixel-wise nodes on a running server: what the workflows make, the inactive run, and what is refused, over HTTP."""

import itertools
import json

import numpy as np
import pytest

from support.graph import to_prompt
from support.server import ROOT, ExecutionError, RequestError

pytestmark = pytest.mark.host
RUNS = itertools.count(1)


@pytest.fixture
def embedded(info):
    return to_prompt(json.loads((ROOT / "workflows" / "31 Pixel-wise from words.json").read_text("utf-8")), info)


@pytest.fixture
def masks(info):
    return to_prompt(json.loads((ROOT / "workflows" / "32 Pixel-wise from masks.json").read_text("utf-8")), info)


def of_kind(prompt, kind):
    return [key for key, node in prompt.items() if node["class_type"] == kind]


def inputs(prompt, kind):
    [key] = of_kind(prompt, kind)
    return prompt[key]["inputs"]


def pictures(server, entry, node):
    return [np.asarray(image.convert("RGB"), dtype=int) for image in server.images(entry, node)]


def failure(server, prompt):
    """The message of the node that failed."""
    with pytest.raises(ExecutionError) as failed:
        server.run(prompt)
    messages = dict(failed.value.entry["status"]["messages"])
    return messages["execution_error"]["exception_message"]


def decoded(server, prompt):
    """The picture of each VAEDecode, in their order."""
    shown = {key: f"{key} shown" for key in of_kind(prompt, "VAEDecode")}
    prefix = f"pixelwise-{next(RUNS)}"  # the host reports no pictures of an output that it has cached
    extra = {
        name: {"class_type": "SaveImage", "inputs": {"images": [key, 0], "filename_prefix": prefix}}
        for key, name in shown.items()
    }
    entry = server.run(prompt | extra)
    return [pictures(server, entry, name)[0] for name in shown.values()]


def test_base_concave_and_pixelwise_are_three_pictures(server, embedded):
    base, concave, pixelwise = decoded(server, embedded)
    for one, other in ((base, concave), (concave, pixelwise), (base, pixelwise)):
        assert abs(one - other).mean() > 0.2


def test_scale_zero_is_the_stock_sampler_to_the_bit(server, embedded):
    for key in of_kind(embedded, "AsyncDiffPixelwiseSampler"):
        embedded[key]["inputs"]["scale"] = 0.0
    base, concave, pixelwise = decoded(server, embedded)
    assert np.array_equal(base, concave)
    assert np.array_equal(base, pixelwise)


@pytest.mark.parametrize("switch", [{"scale": 0.0}, {"concave": True}])
def test_a_run_that_looks_at_no_regions_is_previewed_without_any(server, embedded, switch):
    """The two controls of the help pages are one switch each, and do not stop the graph."""
    [key] = of_kind(embedded, "AsyncDiffPreviewRegions")
    for sampler in of_kind(embedded, "AsyncDiffPixelwiseSampler"):
        embedded[sampler]["inputs"] |= switch
    embedded["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": [key, 1]}}
    embedded["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["mask", 0]}}
    assert [mask.max() for mask in pictures(server, server.run(embedded), "shown")] == [0, 0]


def test_regions_lie_where_their_objects_are(server, embedded):
    """The first is above the second, as the prompt says, in the masks that the node gives."""
    [key] = of_kind(embedded, "AsyncDiffPreviewRegions")
    embedded["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": [key, 1]}}
    embedded["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["mask", 0]}}
    upper, lower = (image[..., 0] for image in pictures(server, server.run(embedded), "shown"))
    heights = [np.nonzero(mask)[0].mean() for mask in (upper, lower)]
    assert heights[0] + 3 < heights[1]
    assert not (upper * lower).any()


def test_static_regions_run_with_the_advanced_sampler(server, embedded, masks):
    """Regions from a prompt in the workflow of SamplerCustomAdvanced."""
    [regions] = of_kind(embedded, "AsyncDiffRegionsFromPrompt")
    source = embedded[regions]
    [load] = of_kind(masks, "AsyncDiffLoadEmbeddedPipeline")
    source["inputs"] |= {"masks": "static", "clip": [load, 1]}
    inputs(masks, "AsyncDiffApplyPixelwise")["regions"] = ["r", 0]
    inputs(masks, "CFGGuider")["positive"] = ["r", 1]
    inputs(masks, "AsyncDiffPreviewRegions")["regions"] = ["r", 0]
    [picture] = decoded(server, masks | {"r": source})
    assert picture.std() > 10


def test_both_asynchronies_together(server, masks):
    masks["policy"] = {"class_type": "AsyncDiffConstantDeviation", "inputs": {"deviation": 0.3}}
    settings = inputs(masks, "AsyncDiffApplyPixelwise")
    [alone] = decoded(server, masks)
    settings["policy"] = ["policy", 0]
    [both] = decoded(server, masks)
    assert abs(alone - both).mean() > 0.2


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("phrases", "reason"),
    [
        ("green square: 0.5", "'green square' is not in the prompt"),
        ("red circle #2", "'red circle' occurs 1 time"),
        ("red circle\nred circle", "Two regions have one name"),
        ("elephant", "elephant"),
    ],
)
def test_a_phrase_that_is_not_there_is_named(server, embedded, phrases, reason):
    inputs(embedded, "AsyncDiffRegionsFromPrompt")["phrases"] = phrases
    assert reason in failure(server, embedded)


@pytest.mark.parametrize(
    ("phrases", "reason"), [("", "at least one phrase"), ("cat: much", "red circle: 0.5"), ("cat: 2", "0 to 1")]
)
def test_phrases_that_cannot_be_read_are_refused_before_anything_runs(server, embedded, phrases, reason):
    [key] = of_kind(embedded, "AsyncDiffRegionsFromPrompt")
    embedded[key]["inputs"]["phrases"] = phrases
    with pytest.raises(RequestError) as refusal:
        server.queue(embedded)
    assert refusal.value.status == 400
    assert reason in json.dumps(refusal.value.body["node_errors"][key])


def test_a_mask_of_another_shape_is_refused(server, masks):
    for key in of_kind(masks, "SolidMask"):
        masks[key]["inputs"]["width"] = 256
    assert "not the shape of the image" in failure(server, masks)


def test_an_empty_and_a_covered_region_are_refused(server, masks):
    first, second = of_kind(masks, "AsyncDiffRegionFromMask")
    page, *_ = of_kind(masks, "SolidMask")
    masks[second]["inputs"]["mask"] = [page, 0]
    assert "'ring' is empty" in failure(server, masks)
    masks[second]["inputs"]["mask"] = masks[first]["inputs"]["mask"]
    assert "'ring' is covered" in failure(server, masks)


def test_an_odd_latent_is_refused(server, masks):
    inputs(masks, "EmptySD3LatentImage")["width"] = 144
    latent = {"class_type": "LatentCrop", "inputs": {
        "samples": [of_kind(masks, "EmptySD3LatentImage")[0], 0], "width": 136, "height": 128, "x": 0, "y": 0,
    }}  # fmt: skip
    inputs(masks, "SamplerCustomAdvanced")["latent_image"] = ["odd", 0]
    assert "17 × 16 cannot be divided into 2 × 2" in failure(server, masks | {"odd": latent})


def test_an_area_is_refused(server, masks):
    area = {
        "width": 64,
        "height": 64,
        "x": 0,
        "y": 0,
        "strength": 1.0,
        "conditioning": inputs(masks, "CFGGuider")["positive"],
    }
    node = {"class_type": "ConditioningSetArea", "inputs": area}
    inputs(masks, "CFGGuider")["positive"] = ["area", 0]
    assert "cropped to an area" in failure(server, masks | {"area": node})


@pytest.mark.parametrize("name", ["dpmpp_2m", "euler"])
def test_another_sampler_is_refused_by_name(server, masks, name):
    inputs(masks, "SamplerCustomAdvanced")["sampler"] = ["other", 0]
    message = failure(server, masks | {"other": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": name}}})
    assert name in message
    assert "Pixel-wise Asynchronous Sampler" in message


def test_a_model_without_regions_and_noise_in_a_flow_model_are_refused(server, masks):
    guider, model = inputs(masks, "CFGGuider"), inputs(masks, "AsyncDiffApplyPixelwise")["model"]
    patched = guider["model"]
    guider["model"] = model
    assert "needs a model from Apply Pixel-wise" in failure(server, masks)
    guider["model"] = patched
    inputs(masks, "AsyncDiffPixelwiseSampler")["eta"] = 1.0
    assert "set η to 0" in failure(server, masks)


def test_the_two_patches_in_a_row_are_refused(server, masks):
    model = inputs(masks, "AsyncDiffApplyPixelwise")["model"]
    masks["policy"] = {"class_type": "AsyncDiffConstantDeviation", "inputs": {"deviation": 0.3}}
    masks["first"] = {"class_type": "AsyncDiffApply", "inputs": {
        "model": model, "policy": ["policy", 0], "gamma": 1.0, "bound": "from policy", "tail_sync": 0,
        "velocity_coupling": 0.0,
    }}  # fmt: skip
    inputs(masks, "AsyncDiffApplyPixelwise")["model"] = ["first", 0]
    assert "connect the policy to Apply Pixel-wise" in failure(server, masks)


def test_regions_that_have_not_run_cannot_be_previewed(server, embedded):
    [key] = of_kind(embedded, "AsyncDiffPreviewRegions")
    [latent] = of_kind(embedded, "EmptySD3LatentImage")
    inputs(embedded, "AsyncDiffRegionsFromPrompt")["phrases"] = "red circle: 0.11"
    preview = embedded[key]["inputs"] | {"samples": [latent, 0]}
    preview.pop("image")
    wanted = {"AsyncDiffLoadEmbeddedPipeline", "AsyncDiffRegionsFromPrompt", "EmptySD3LatentImage"}
    kept = {name: node for name, node in embedded.items() if node["class_type"] in wanted}
    message = failure(server, kept | {key: {"class_type": "AsyncDiffPreviewRegions", "inputs": preview}})
    assert "connect the LATENT of that sampler" in message
