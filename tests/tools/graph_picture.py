"""The picture of a graph at work on the README's first screen: γ Sweep in a browser, after one run.

    PYTHONPATH=tests python -m tools.graph_picture

Needs a ComfyUI checkout (see `support.host`), playwright and Chromium.
"""

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from support.graph_page import FLAGS, QUIET, VIEW, GraphPage
from support.host import find_host
from support.paths import ROOT
from support.server import ComfyServer

FILE = ROOT / "docs" / "graph.png"
GRAPH = (205, 112, 1395, 785)  # of the page: the groups of the workflow, without the front end's bars


def main():
    host = find_host()
    if host is None:
        sys.exit("no ComfyUI found: set COMFYUI_PATH")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        server = ComfyServer(host, Path(folder))
        server.start()
        server.settings(**QUIET, **{"Comfy.VueNodes.Enabled": True})
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=[*FLAGS])
        try:
            picture = Image.open(io.BytesIO(shot(browser, server)))
        finally:
            browser.close()
            server.stop()
    picture.convert("RGB").crop(GRAPH).quantize(256, dither=Image.Dither.NONE).save(FILE, optimize=True)
    print(f"{FILE.relative_to(ROOT)}: {FILE.stat().st_size / 1000:.0f} kB")


def shot(browser, server):
    page = GraphPage(browser.new_page(viewport=VIEW), server)
    page.open()
    page.load_workflow(json.loads((ROOT / "workflows" / "21 Explore gamma.json").read_text(encoding="utf-8")))
    page.queue_and_wait()
    page.fit()
    page.raw.wait_for_timeout(2500)  # for the pictures
    return page.raw.screenshot()


if __name__ == "__main__":
    main()
