"""Every shipped workflow opens in the front end as it was meant, in both ways of drawing nodes."""

import json

import pytest

from support.graph import to_prompt
from support.paths import ROOT

pytestmark = pytest.mark.browser
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflow_opens_without_complaint(page, file):
    workflow = json.loads(file.read_text(encoding="utf-8"))
    assert page.missing_nodes(workflow) == []
    page.load_workflow(workflow)
    assert page.graph_to_prompt() == to_prompt(workflow, page.server.object_info())
    assert page.errors == []


@pytest.mark.parametrize("renderer", ["vue"], indirect=True)
@pytest.mark.parametrize(
    "name", ["Text to Image (Ideogram v4)", "Text to Video (LTX-2.3)", "Image Edit (Flux.2 Klein 4B)"]
)
def test_subgraphs_are_read_as_the_front_end_reads_them(page, name):
    """Core's blueprints, by which the tests of the server are made."""
    file = page.server.host / "blueprints" / f"{name}.json"
    if not file.is_file():
        pytest.skip(f"this ComfyUI has no {file.name}")
    workflow = json.loads(file.read_text(encoding="utf-8"))
    page.load_workflow(workflow)
    assert page.graph_to_prompt() == to_prompt(workflow, page.server.object_info())
