"""The live view: σ against t* on a sampler, before, during and after a run, in both ways of drawing nodes."""

import pytest

pytestmark = pytest.mark.browser
STEPS = 6
PLAN = "/asyncdiff/plan"
CHART = "document.querySelector('.asyncdiff-chart')"
SAMPLER = [7, "fixed", STEPS, 3, "euler", "simple", 1, 1, "from policy", 0, 0]

# id → type, place, size, values, {input: (node, slot)}
NODES = {
    1: ("AsyncDiffLoadEmbeddedPipeline", (20, 20), (260, 120), [], {}),
    2: ("CLIPTextEncode", (320, 20), (280, 110), ["a red circle"], {"clip": (1, 1)}),
    3: ("CLIPTextEncode", (320, 180), (280, 110), [""], {"clip": (1, 1)}),
    4: ("EmptySD3LatentImage", (320, 340), (280, 110), [128, 128, 1], {}),
    5: ("AsyncDiffConstantDeviation", (320, 500), (280, 60), [0.4], {}),
    6: (
        "AsyncDiffKSampler", (660, 20), (300, 540), SAMPLER,
        {"model": (1, 0), "positive": (2, 0), "negative": (3, 0), "latent_image": (4, 0), "policy": (5, 0)},
    ),
    7: ("VAEDecode", (1010, 20), (160, 60), [], {"samples": (6, 0), "vae": (1, 2)}),
    8: ("PreviewImage", (1010, 140), (220, 260), [], {"images": (7, 0)}),
}  # fmt: skip
BUILD = """nodes => {
  app.graph.clear();
  const made = {};
  for (const [id, [type, pos, size, values]] of Object.entries(nodes)) {
    const node = made[id] = LiteGraph.createNode(type);
    node.id = Number(id);
    app.graph.add(node);
    node.pos = pos;
    node.size = [size[0], Math.max(size[1], node.computeSize()[1])];
    values.forEach((value, place) => { node.widgets[place].value = value; });
  }
  for (const [id, [, , , , links]] of Object.entries(nodes))
    for (const [name, [source, slot]] of Object.entries(links)) made[source].connect(slot, made[id], name);
}"""

DETOUR = """() => {
  const [policy, sampler] = [5, 6].map(id => app.graph.getNodeById(id));
  const scale = LiteGraph.createNode("AsyncDiffDeviationScale");
  const reroute = LiteGraph.createNode("Reroute");
  app.graph.add(scale);
  app.graph.add(reroute);
  scale.widgets[0].value = 0.5;
  policy.connect(0, reroute, 0);
  reroute.connect(0, sampler, "policy");
  scale.connect(0, sampler, "gamma");
}"""


@pytest.fixture
def graph(page):
    """The page with the workflow, and `plans`: what the server was asked to foresee."""
    page.plans = []
    page.raw.on("request", lambda request: PLAN in request.url and page.plans.append(request.post_data_json))
    page.raw.evaluate(BUILD, {str(key): value for key, value in NODES.items()})
    page.fit()
    return page


def wait_for(page, state, steps=STEPS):
    """Until the chart shows that."""
    page.raw.wait_for_function(
        f"([state, steps]) => {{ const chart = {CHART};"
        " return chart?.dataset.state === state && Number(chart.dataset.steps) === steps; }",
        arg=[state, steps],
    )


def curve(page, name):
    return page.raw.evaluate(f"name => {CHART}.querySelector(`path.${{name}}`).getAttribute('d')", name)


def changed(page, name, old):
    page.raw.wait_for_function(
        f"([name, old]) => {CHART}.querySelector(`path.${{name}}`).getAttribute('d') !== old", arg=[name, old]
    )


def saved_values(page):
    return page.raw.evaluate("() => app.graph.getNodeById(6).serialize().widgets_values")


def test_the_curve_is_foreseen_then_drawn_as_it_is_decided(graph, renderer, tmp_path):
    wait_for(graph, "plan")
    foreseen = curve(graph, "plan")
    assert foreseen.count("L") == STEPS - 1
    assert curve(graph, "sigma").count("L") == STEPS
    assert curve(graph, "line") == ""
    assert saved_values(graph) == SAMPLER

    graph.set_widget("AsyncDiffKSampler", "gamma", 1.5)
    changed(graph, "plan", foreseen)
    asked = len(graph.plans)
    assert graph.plans[-1]["sampler"]["gamma"] == 1.5
    inputs = graph.graph_to_prompt()["6"]["inputs"]
    assert inputs["gamma"] == 1.5
    assert not [name for name in inputs if "live" in name]

    graph.set_widget("AsyncDiffKSampler", "seed", ["classic", "vue"].index(renderer))  # else the run is in the cache
    graph.queue_and_wait()
    wait_for(graph, "done")
    assert curve(graph, "line").count("L") == STEPS - 1
    assert curve(graph, "bars").count("M") == STEPS - 1  # the first step is synchronous
    assert len(graph.plans) == asked  # the seed decides nothing
    graph.screenshot(tmp_path / "live.png")

    graph.set_widget("AsyncDiffConstantDeviation", "deviation", 0.1)
    wait_for(graph, "plan")
    assert graph.errors == []


@pytest.mark.parametrize("renderer", ["classic"])
def test_detours_and_reasons(graph):
    wait_for(graph, "plan")
    old = curve(graph, "plan")
    graph.raw.evaluate(DETOUR)
    changed(graph, "plan", old)  # γ comes from another node, the policy through a reroute
    assert graph.plans[-1]["sampler"]["gamma"] == 0.5
    assert graph.plans[-1]["policy"] == {"type": "AsyncDiffConstantDeviation", "widgets": {"deviation": 0.4}}

    graph.raw.evaluate("() => { const node = app.graph.getNodeById(6); node.disconnectInput('policy'); }")
    wait_for(graph, "empty", 0)
    assert "No policy" in graph.raw.evaluate(f"() => {CHART}.textContent")

    graph.raw.evaluate("""() => {
      const trace = LiteGraph.createNode("AsyncDiffPolicyFromTrace");
      app.graph.add(trace);
      trace.connect(0, app.graph.getNodeById(6), "policy");
    }""")
    graph.raw.wait_for_function(f"() => {CHART}.textContent.includes('known only when it runs')")

    asked = len(graph.plans)
    graph.raw.evaluate("() => app.graph.remove(app.graph.getNodeById(6))")
    graph.set_widget("AsyncDiffConstantDeviation", "deviation", 0.2)
    graph.raw.wait_for_timeout(500)
    assert len(graph.plans) == asked
    assert graph.errors == []


@pytest.mark.parametrize("renderer", ["classic"])
def test_a_sweep_foresees_one_curve_for_each_gamma(graph):
    graph.raw.evaluate("""() => {
      const sweep = LiteGraph.createNode("AsyncDiffGammaSweep");
      app.graph.remove(app.graph.getNodeById(6));
      app.graph.add(sweep);
      app.graph.getNodeById(5).connect(0, sweep, "policy");
    }""")
    wait_for(graph, "plan", 20)
    assert curve(graph, "plan").count("M") == 4
    graph.set_widget("AsyncDiffGammaSweep", "gammas", "0, 1, oops")
    wait_for(graph, "empty", 0)
    assert graph.errors == []


LOADED = """name => {
  const loader = LiteGraph.createNode("AsyncDiffLoadTPM");
  loader.id = 50;
  app.graph.add(loader);
  loader.pos = [20, 500];
  loader.widgets[0].value = name;
  loader.connect(0, app.graph.getNodeById(6), "policy");
}"""


def says(page, words):
    page.raw.wait_for_function(f"words => {CHART}.textContent.includes(words)", arg=words)


def test_a_policy_that_does_not_fit_is_told_before_run_with_those_that_fit(graph, tmp_path):
    wait_for(graph, "plan")
    graph.raw.evaluate(LOADED, "Flux · constant 0.50 · the paper's mean on COCO")
    says(graph, "was made for Flux, the model is the embedded pipeline. These fit: ")
    wait_for(graph, "empty", 0)
    graph.screenshot(tmp_path / "misfit.png")
    reason = f"{CHART}.querySelector('.reason')"
    assert graph.raw.evaluate(f"() => {reason}.scrollHeight <= {CHART}.clientHeight + 1")  # all of it can be read
    assert graph.plans[-1]["model"] == {"type": "AsyncDiffLoadEmbeddedPipeline", "widgets": {}}

    graph.set_widget("AsyncDiffLoadTPM", "name", "embedded pipeline · curve · searched (for tail_sync 1)")
    wait_for(graph, "plan")
    graph.set_widget("AsyncDiffKSampler", "sampler_name", "dpmpp_2m")
    says(graph, "was made for the sampler euler")
    wait_for(graph, "plan")
    assert graph.errors == []


@pytest.mark.parametrize("renderer", ["classic"])
def test_the_model_is_found_through_what_changes_it(graph):
    """A node that patches MODEL, a bypassed one, and a reroute."""
    graph.raw.evaluate(LOADED, "Flux · constant 0.50 · the paper's mean on COCO")
    graph.raw.evaluate("""() => {
      const [loader, sampler] = [1, 6].map(id => app.graph.getNodeById(id));
      const types = ["ModelSamplingSD3", "LoraLoader", "Reroute"];
      const [shift, lora, reroute] = types.map(type => LiteGraph.createNode(type));
      [shift, lora, reroute].forEach(node => app.graph.add(node));
      lora.mode = 4;
      loader.connect(1, lora, "clip");
      loader.connect(0, lora, "model");
      lora.connect(0, shift, "model");
      shift.connect(0, reroute, 0);
      reroute.connect(0, sampler, "model");
    }""")
    says(graph, "the model is the embedded pipeline")
    assert graph.errors == []


@pytest.mark.parametrize("value", ["shipped: tiny-sd35", "tiny-sd35", "tiny-sd35.json"])
def test_an_old_name_of_a_preset_is_shown_by_its_new_one_and_runs(page, value):
    page.raw.evaluate(BUILD, {str(key): node for key, node in NODES.items()})
    page.raw.evaluate(LOADED, value)
    page.load_workflow(page.raw.evaluate("() => app.graph.serialize()"))
    wait_for(page, "plan")
    assert page.graph_to_prompt()["50"]["inputs"]["name"] == "embedded pipeline · constant 0.40 · chosen by hand"
    assert page.queue_and_wait()["status"]["status_str"] == "success"
    assert page.errors == []


SUBGRAPH = """ids => {
  const nodes = ids.map(id => app.graph.getNodeById(id));
  const { node } = app.graph.convertToSubgraph(new Set(nodes));
  node.title = "Inside";
  app.graph.setDirtyCanvas(true, true);
}"""
INNER = "[...app.rootGraph.subgraphs.values()].flatMap(graph => graph.nodes)"


def open_subgraph(page):
    """Shows the inside of the only subgraph, whose charts then are on the screen."""
    page.raw.evaluate("() => app.canvas.setGraph([...app.rootGraph.subgraphs.values()][0])")
    page.fit()


@pytest.mark.parametrize("inside", [[6], [5, 6], [5]], ids=["sampler", "both", "policy"])
@pytest.mark.parametrize("renderer", ["classic"])
def test_a_policy_is_found_across_the_borders_of_subgraphs(graph, inside):
    wait_for(graph, "plan")
    foreseen = curve(graph, "plan")
    graph.raw.evaluate(SUBGRAPH, inside)
    if 6 in inside:
        open_subgraph(graph)
    wait_for(graph, "plan")
    assert curve(graph, "plan") == foreseen
    assert graph.plans[-1]["policy"] == {"type": "AsyncDiffConstantDeviation", "widgets": {"deviation": 0.4}}
    nodes = INNER if 5 in inside else "app.rootGraph.nodes"
    graph.raw.evaluate(
        f"""() => {{
      const widget = {nodes}.find(node => node.type === "AsyncDiffConstantDeviation").widgets[0];
      widget.value = 0.1;
      widget.callback?.(0.1);
    }}"""
    )
    changed(graph, "plan", foreseen)
    assert graph.plans[-1]["policy"]["widgets"] == {"deviation": 0.1}
    assert graph.errors == []


@pytest.mark.parametrize("renderer", ["classic"])
def test_detours_lead_into_a_subgraph_and_two_uses_of_one_are_a_reason(graph):
    graph.raw.evaluate(DETOUR)
    graph.raw.evaluate(SUBGRAPH, [6])
    open_subgraph(graph)
    wait_for(graph, "plan")
    graph.raw.wait_for_timeout(500)
    assert graph.plans[-1]["sampler"]["gamma"] == 0.5
    assert graph.plans[-1]["policy"] == {"type": "AsyncDiffConstantDeviation", "widgets": {"deviation": 0.4}}
    graph.raw.evaluate("""() => {
      const place = app.rootGraph.nodes.find(node => node.subgraph);
      app.rootGraph.add(LiteGraph.createNode(place.type));
      const [sampler] = place.subgraph.nodes;
      sampler.widgets.find(widget => widget.name === "steps").callback?.(6);
    }""")
    graph.raw.wait_for_function(f"() => {CHART}.textContent.includes('used more than once')")
    assert graph.errors == []
