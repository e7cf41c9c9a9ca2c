"""The strip of γ: scrub, wipe, render between and use, in both ways of drawing nodes, and inside a subgraph."""

import json

import pytest

from support.paths import ROOT

pytestmark = pytest.mark.browser

STRIP = "document.querySelector('.asyncdiff-explorer')"
SWEEP = "AsyncDiffGammaSweep"
NODES = "[app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap(graph => graph.nodes)"
ARRANGE = """() => {
  const sweep = app.graph.nodes.find(node => node.type === "AsyncDiffGammaSweep");
  const sampler = LiteGraph.createNode("AsyncDiffKSampler");
  app.graph.add(sampler);
  sweep.setSize([460, 1000]);
  sampler.pos = [sweep.pos[0] - 400, sweep.pos[1] + 560];
  for (const node of app.graph.nodes) if (node.type === "SaveImage") node.pos = [sweep.pos[0] + 520, sweep.pos[1]];
  app.canvas.ds.scale = .76;
  app.canvas.ds.offset = [640 - sweep.pos[0], 90 - sweep.pos[1]];
  app.graph.setDirtyCanvas(true, true);
}"""


@pytest.fixture
def graph(page):
    """The page with γ Sweep on the embedded pipeline, a batch of two, and a sampler that takes a γ."""
    page.load_workflow(json.loads((ROOT / "workflows" / "21 Explore gamma.json").read_text(encoding="utf-8")))
    page.set_widget(SWEEP, "steps", 4)
    page.raw.evaluate(ARRANGE)
    page.raw.wait_for_timeout(500)
    return page


def value(page, node, widget):
    """Of the first node of this type, in whatever graph."""
    find = f"([node, name]) => {NODES}.find(({{ type }}) => type === node).widgets.find(w => w.name === name).value"
    return page.raw.evaluate(find, [node, widget])


def give(page, node, widget, value):
    find = (
        f"([node, name, value]) => {NODES}.find(n => n.type === node).widgets.find(w => w.name === name).value = value"
    )
    page.raw.evaluate(find, [node, widget, value])


def seed_of(page):
    """In the prompt that Run would send."""
    [node] = [node for node in page.graph_to_prompt().values() if node["class_type"] == SWEEP]
    return node["inputs"]["seed"]


def state(page):
    return page.raw.evaluate(f"() => ({{ ...{STRIP}.dataset }})")


def shows(page, gamma, name="done"):
    page.raw.wait_for_function(
        f"([gamma, name]) => {STRIP}?.dataset.gamma === gamma && {STRIP}.dataset.state === name", arg=[gamma, name]
    )


def part(page, name):
    return page.raw.locator(f".asyncdiff-explorer .{name}")


def text(page, name):
    return part(page, name).text_content()


def drag(page, name, *shares):
    """Across a part of the strip, by shares of its width."""
    box = part(page, name).bounding_box()
    height = box["y"] + box["height"] * 0.6
    places = [box["x"] + box["width"] * share for share in shares]
    page.raw.mouse.move(places[0], height)
    page.raw.mouse.down()
    for place in places[1:]:
        page.raw.mouse.move(place, height, steps=3)
    page.raw.mouse.up()


def chart_label(page):
    chart = f"{NODES}.find(node => node.type === '{SWEEP}').widgets.find(w => w.name === 'live view').element"
    return page.raw.evaluate(f"() => {chart}.querySelector('.label').textContent")


def large(page):
    return page.raw.evaluate(f"() => {STRIP}.querySelector('.picture').src")


def pictures(page):
    """Addresses of the pictures that are there, all of them loaded."""
    page.raw.wait_for_function(
        f"() => [...{STRIP}.querySelectorAll('.strip img')].every(i => i.complete && i.naturalWidth)"
    )
    return page.raw.evaluate(f"() => [...{STRIP}.querySelectorAll('.strip img')].map(image => image.src)")


def test_scrub_wipe_render_between_and_use(graph, renderer, tmp_path):
    page = graph
    page.screenshot(tmp_path / "before.png")
    page.set_widget(SWEEP, "seed", 3 + ["classic", "vue"].index(renderer))
    page.queue_and_wait()
    shows(page, "1")
    assert len(set(pictures(page))) == 4

    # scrub: the nearest picture, and the chart follows
    drag(page, "scrub", 0.5, 0.34)
    assert state(page)["gamma"] == "0.5"
    assert "nearest rendered is strength γ = 0.5" in text(page, "readout")
    assert large(page) == pictures(page)[1]
    assert chart_label(page) == "strength γ = 0.5"
    for key, gamma in (("End", "2"), ("ArrowLeft", "1"), ("Home", "0"), ("ArrowLeft", "0"), ("ArrowRight", "0.5")):
        page.raw.keyboard.press(key)
        assert state(page)["gamma"] == gamma
        assert chart_label(page) == f"strength γ = {gamma}"
    page.screenshot(tmp_path / "scrub.png")

    # the other image of the batch
    first = large(page)
    part(page, "next").click()
    assert text(page, "next") == "image 2 of 2"
    assert large(page) != first

    # wipe: against γ = 0, then against a pinned one
    part(page, "wipe").click()
    drag(page, "frame", 0.5, 0.3)
    assert page.raw.evaluate(f"() => Number({STRIP}.querySelector('.frame').style.getPropertyValue('--wipe'))") < 0.35
    assert (text(page, "left"), text(page, "right")[:16]) == ("strength γ = 0", "strength γ = 0.5")
    part(page, "pin").click()
    page.raw.keyboard.press("Tab")
    part(page, "strip").locator("button").nth(3).click()
    assert (text(page, "left"), text(page, "right")[:14]) == ("strength γ = 0.5", "strength γ = 2")
    page.screenshot(tmp_path / "wipe.png")

    # between: one value more, the same seed
    part(page, "strip").locator("button").nth(2).click()
    assert text(page, "denser") == "denser here: 1.5"
    seed = value(page, SWEEP, "seed")
    page.set_widget(SWEEP, "control_after_generate", "randomize")
    part(page, "denser").click()
    shows(page, "1.5")
    assert value(page, SWEEP, "gammas") == "0, 0.5, 1, 1.5, 2"
    assert (value(page, SWEEP, "seed"), value(page, SWEEP, "control_after_generate")) == (seed, "fixed")
    assert len(set(pictures(page))) == 5
    page.screenshot(tmp_path / "denser.png")

    # use: one step of undo
    part(page, "use").click()
    page.raw.locator(".litemenu-entry", has_text="Asynchronous KSampler").click()
    assert value(page, "AsyncDiffKSampler", "gamma") == 1.5
    page.screenshot(tmp_path / "use.png")
    page.raw.keyboard.press("Control+z")
    page.raw.wait_for_function(
        f"() => {NODES}.find(node => node.type === 'AsyncDiffKSampler')"
        ".widgets.some(({ name, value }) => name === 'gamma' && value === 1)"
    )
    page.raw.wait_for_function(f"() => {STRIP}?.dataset.state === 'done'")  # the strip is still there
    assert value(page, SWEEP, "gammas") == "0, 0.5, 1, 1.5, 2"
    assert page.errors == []


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_a_grid_of_strips_inside_a_subgraph(graph, renderer, tmp_path):
    page = graph
    for name, given in (("gammas", "0, 2"), ("second_axis", "cfg"), ("second_values", "1, 3")):
        page.set_widget(SWEEP, name, given)
    page.raw.evaluate("""() => {
      const sweep = app.graph.nodes.find(node => node.type === "AsyncDiffGammaSweep");
      app.graph.convertToSubgraph(new Set([sweep]));
      app.canvas.setGraph([...app.rootGraph.subgraphs.values()][0]);
    }""")
    page.fit()
    page.queue_and_wait()
    page.raw.wait_for_function(f"() => {STRIP}.dataset.state === 'done'")
    assert len(set(pictures(page))) == 4
    assert "cfg 1" in text(page, "right")
    page.raw.evaluate(f"() => {STRIP}.querySelector('.scrub').focus()")
    page.raw.keyboard.press("End")
    page.raw.keyboard.press("ArrowDown")
    assert (state(page)["gamma"], state(page)["row"]) == ("2", "1")
    assert chart_label(page) == "strength γ = 2 · cfg 3"
    page.screenshot(tmp_path / "grid.png")

    give(page, SWEEP, "control_after_generate", "randomize")
    seed = seed_of(page)
    part(page, "denser").click()
    shows(page, "1")
    assert value(page, SWEEP, "gammas") == "0, 1, 2"
    assert seed_of(page) == seed
    assert len(set(pictures(page))) == 6

    part(page, "use").click()  # in the graph around the subgraph; cfg as well
    page.raw.locator(".litemenu-entry", has_text="Asynchronous KSampler").click()
    assert [value(page, "AsyncDiffKSampler", name) for name in ("gamma", "cfg")] == [1, 3]
    assert page.errors == []
