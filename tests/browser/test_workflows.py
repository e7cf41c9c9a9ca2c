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
