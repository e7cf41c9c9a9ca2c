"""The harness itself, on stock nodes: a picture comes back, a bad value is refused, a failure says why."""

import numpy as np
import pytest

from support.graph import to_prompt
from support.server import ExecutionError, RequestError

pytestmark = pytest.mark.host


def picture(**widgets):
    empty = {"width": 48, "height": 32, "batch_size": 2, "color": 0xFF8000} | widgets
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "two-pictures"}},
    }


def test_a_stock_graph_returns_its_pictures(server):
    entry = server.run(picture())
    images = server.images(entry, node="2")
    assert [image.size for image in images] == [(48, 32)] * 2
    assert np.asarray(images[0])[0, 0].tolist() == [255, 128, 0]
    assert len(list(server.output.glob("two-pictures*.png"))) == 2


def test_an_out_of_range_widget_is_refused(server):
    with pytest.raises(RequestError) as refusal:
        server.queue(picture(width=-1))
    assert refusal.value.status == 400
    assert refusal.value.body["node_errors"]["1"]["errors"][0]["type"] == "value_smaller_than_min"


def test_a_failing_node_says_why(server):
    (server.input / "broken.png").write_text("no picture")
    graph = picture() | {"1": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}}}
    with pytest.raises(ExecutionError, match="UnidentifiedImageError"):
        server.run(graph)


def test_a_stock_workflow_of_the_front_end_runs_without_it(server, stock_workflow):
    entry = server.run(to_prompt(stock_workflow, server.object_info()))
    assert server.images(entry)[0].size == (96, 64)


def test_the_pack_comes_from_the_temporary_base_directory(server):
    assert str(server.base / "custom_nodes" / "asyncdiff") in server.log()
    assert not [line for line in server.log().splitlines() if "IMPORT FAILED" in line and "custom_nodes" in line]
