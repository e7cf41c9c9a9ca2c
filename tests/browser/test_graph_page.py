"""The browser harness itself, on a workflow of stock nodes."""

import pytest

from support.graph import to_prompt
from support.server import RequestError

pytestmark = pytest.mark.browser


def test_a_stock_workflow_loads_runs_and_is_drawn(page, stock_workflow, tmp_path):
    page.load_workflow(stock_workflow)
    assert page.missing_nodes(stock_workflow) == []
    assert page.graph_to_prompt() == to_prompt(stock_workflow, page.server.object_info())
    page.set_widget("EmptyImage", "height", 40)
    assert page.server.images(page.queue_and_wait())[0].size == (96, 40)
    page.screenshot(tmp_path / "rendering.png")
    assert (tmp_path / "rendering.png").stat().st_size > 10_000
    assert page.errors == []


@pytest.mark.parametrize("renderer", ["classic"])
def test_what_is_wrong_is_reported(page, stock_workflow):
    stock_workflow["nodes"][1]["type"] = "NoSuchNode"
    assert page.missing_nodes(stock_workflow) == ["NoSuchNode"]
    page.load_workflow(stock_workflow)
    with pytest.raises(RequestError, match="missing_node_type"):
        page.queue()
    page.raw.evaluate("() => console.error('of ours')")
    assert any("of ours" in error for error in page.errors)
