"""A browser on the ComfyUI server of tests/conftest.py: `page` is a `browser.graph_page.GraphPage`."""

import os
import shutil

import pytest

from support.graph_page import FLAGS, QUIET, VIEW, GraphPage

NO_BROWSER = "browser tests need playwright (pip install playwright) and chromium (or CHROMIUM_PATH)"


@pytest.fixture(scope="module")
def browser():
    """One Chromium for a test file: playwright keeps an event loop in this thread while it runs."""
    program = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")
    if program is None:
        pytest.skip(NO_BROWSER)
    playwright = pytest.importorskip("playwright.sync_api", reason=NO_BROWSER)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=[*FLAGS])
        yield chromium
        chromium.close()


@pytest.fixture(params=["classic", "vue"])
def renderer(request):
    """How nodes are drawn; a test of one of them parametrises `renderer` itself."""
    return request.param


@pytest.fixture
def page(browser, server, renderer):
    """The front end of the server in a new profile, ready for a workflow."""
    server.settings(**QUIET, **{"Comfy.VueNodes.Enabled": renderer == "vue"})
    context = browser.new_context(viewport=VIEW)
    context.set_default_timeout(120_000)
    page = GraphPage(context.new_page(), server)
    page.open()
    yield page
    context.close()
