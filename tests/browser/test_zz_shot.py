import json
import os

import pytest

from support.paths import ROOT

pytestmark = pytest.mark.browser
NAMES = [n for n in os.environ.get("SHOTS", "").split("|") if n]
FILES = [f for f in sorted((ROOT / "workflows").glob("*.json")) if not NAMES or f.stem[:2] in NAMES]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem[:2])
def test_shot(page, file, renderer):
    page.raw.set_viewport_size({"width": 1536, "height": 864})
    page.load_workflow(json.loads(file.read_text("utf-8")))
    page.fit()
    page.raw.wait_for_timeout(2500)
    page.raw.screenshot(path=f"/work/tmp/wf/b/shot_{file.stem[:2]}_{renderer}.png")
