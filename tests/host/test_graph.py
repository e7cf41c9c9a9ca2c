"""Saved widget values find their names: the places only the front end knows, new widgets, lists, links."""

import pytest

from support.graph import to_prompt

INFO = {
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "gamma": ["FLOAT", {"default": 1.0}],
                "name": [["euler", "heun"], {}],
            },
            "optional": {
                "curve": ["CURVE", {"socketless": True}],
                "steps": ["INT", {"forceInput": True}],
                "mode": ["COMBO", {"options": ["first", "second"]}],
            },
        }
    },
    "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
}


def converted(kind, values, **more):
    workflow = {"nodes": [{"id": 3, "type": kind, "widgets_values": values, **more}], "links": []}
    return to_prompt(workflow, INFO)["3"]["inputs"]


def test_values_are_named_in_order_without_the_seeds_control():
    points = [[0, 0], [1, 1]]
    assert converted("Sampler", [7, "randomize", 0.5, "heun", points, "second"]) == {
        "seed": 7, "gamma": 0.5, "name": "heun", "curve": {"__value__": points}, "mode": "second",
    }  # fmt: skip


def test_a_widget_newer_than_the_file_has_its_default():
    assert converted("Sampler", [7, "fixed", 0.5, "heun", None])["mode"] == "first"
    assert converted("Sampler", [7])["gamma"] == 1.0


def test_an_upload_button_takes_a_place():
    assert converted("LoadImage", ["b.png", "image"]) == {"image": "b.png"}


def test_values_that_fit_no_widget_are_an_error():
    with pytest.raises(ValueError, match="no widget takes the saved values"):
        converted("LoadImage", ["b.png", "image", 3])
    with pytest.raises(ValueError, match="the server has no node 'Absent'"):
        converted("Absent", [])


def test_muted_nodes_disappear():
    workflow = {"nodes": [{"id": 3, "type": "LoadImage", "widgets_values": ["a.png"], "mode": 2}], "links": []}
    assert to_prompt(workflow, INFO) == {}


def test_subgraphs_are_opened_at_any_depth():
    """The outer node's link goes in, its own value and the inner widget's stand where nothing is connected."""
    inner = {
        "id": "inner",
        "inputs": [{"name": "model", "type": "MODEL"}, {"name": "gamma", "type": "FLOAT"}],
        "outputs": [{"name": "out", "type": "LATENT"}],
        "nodes": [node(1, "Sampler", ["model", "gamma", "name"], [1, 2, None], [7, "fixed", 0.5, "heun"])],
        "links": [link(1, -10, 0, 1), link(2, -10, 1, 1), link(3, 1, 0, -20)],
    }
    outer = {
        "id": "outer",
        "inputs": [{"name": "gamma", "type": "FLOAT"}],
        "outputs": [{"name": "out", "type": "LATENT"}],
        "nodes": [node(4, "LoadImage", [], [], ["a.png", "image"]), node(5, "inner", ["model", "gamma"], [1, 2], [])],
        "links": [link(1, 4, 0, 5), link(2, -10, 0, 5), link(3, 5, 0, -20)],
    }
    own = {"properties": {"proxyWidgets": [["-1", "gamma"], ["5", "name"]]}}
    workflow = {
        "nodes": [
            node(8, "outer", ["gamma"], [None], [0.25, "euler"]) | own, node(9, "Sampler", ["model"], [6], [3]),
        ],
        "links": [[6, 8, 0, 9, 0, "MODEL"]],
        "definitions": {"subgraphs": [inner, outer]},
    }  # fmt: skip
    prompt = to_prompt(workflow, INFO)
    assert prompt.keys() == {"8:4", "8:5:1", "9"}
    assert prompt["9"]["inputs"]["model"] == ["8:5:1", 0]
    sampler = prompt["8:5:1"]["inputs"]
    assert [sampler[name] for name in ("model", "gamma", "name")] == [["8:4", 0], 0.25, "heun"]


def test_a_muted_subgraph_disappears():
    inner = {"id": "inner", "inputs": [], "outputs": [], "nodes": [node(1, "LoadImage", [], [], [])], "links": []}
    muted = node(3, "inner", [], [], []) | {"mode": 2}
    workflow = {"nodes": [muted], "links": [], "definitions": {"subgraphs": [inner]}}
    assert to_prompt(workflow, INFO) == {}


def test_a_choice_brings_inputs_of_its_own():
    sizes = {"required": {"width": ["INT", {"default": 64}]}}
    kinds = {"options": [{"key": "width", "inputs": sizes}, {"key": "none", "inputs": {}}]}
    specs = {"kind": ["COMFY_DYNAMICCOMBO_V3", kinds], "method": [["area", "lanczos"], {}]}
    info = {"Resize": {"input": {"required": specs}}}
    for values, found in (
        (["width", 32, "lanczos"], {"kind": "width", "kind.width": 32, "method": "lanczos"}),
        (["none", "lanczos"], {"kind": "none", "method": "lanczos"}),
    ):
        workflow = {"nodes": [{"id": 3, "type": "Resize", "widgets_values": values}], "links": []}
        assert to_prompt(workflow, info)["3"]["inputs"] == found


def node(number, kind, names, links, values):
    inputs = [{"name": name, "type": "*", "link": link} for name, link in zip(names, links, strict=True)]
    return {"id": number, "type": kind, "inputs": inputs, "widgets_values": values}


def link(number, origin, slot, target):
    return {
        "id": number, "origin_id": origin, "origin_slot": slot, "target_id": target, "target_slot": 0, "type": "*",
    }  # fmt: skip
