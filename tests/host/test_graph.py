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
