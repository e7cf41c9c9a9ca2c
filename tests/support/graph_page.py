"""ComfyUI's front end in a browser page: load a workflow, read and set it, queue it, look at it."""

from urllib.parse import urlsplit

from support.server import RequestError

READY = "() => window.LiteGraph?.registered_node_types?.SaveImage && window.app?.graph?.nodes?.length"
NOTE_ENDINGS = """() => {
  window.endedPrompts = new Set();
  for (const name of ["execution_success", "execution_error", "execution_interrupted"])
    app.api.addEventListener(name, event => endedPrompts.add(event.detail.prompt_id));
}"""
SET_WIDGET = """([key, name, value]) => {
  const node = app.graph.nodes.find(node => [node.id, node.type, node.title].includes(key));
  const widget = node?.widgets?.find(widget => widget.name === name);
  if (!widget) throw new Error(`no widget ${name} on a node ${key}`);
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  app.graph.setDirtyCanvas(true, true);
}"""

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
VIEW = {"width": 1600, "height": 900}
QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}


class GraphPage:
    """A playwright page (`raw`) on the server's front end; `errors` is what the console complained of."""

    def __init__(self, raw, server):
        self.raw, self.server = raw, server
        self.errors = []
        raw.on("console", self._note)
        raw.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))

    def open(self):
        """Waits for the nodes to be registered and for the front end's first graph, which would replace ours later."""
        self.raw.goto(self.server.url)
        self.raw.wait_for_function(READY)
        self.raw.wait_for_load_state("networkidle")
        self.raw.evaluate(NOTE_ENDINGS)

    def load_workflow(self, workflow):
        self.raw.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        self.fit()

    def missing_nodes(self, workflow):
        """Types in the workflow that the front end does not know."""
        registered = set(self.raw.evaluate("() => Object.keys(LiteGraph.registered_node_types)"))
        return sorted({node["type"] for node in workflow["nodes"]} - registered)

    def graph_to_prompt(self):
        """The prompt that the Run button would send: `{node id: {"class_type", "inputs"}}`."""
        output = self.raw.evaluate("async () => (await app.graphToPrompt()).output")
        return {key: {name: node[name] for name in ("class_type", "inputs")} for key, node in output.items()}

    def set_widget(self, node, widget, value):
        """Gives a widget a value as a user's edit would; the node by id, type or title."""
        self.raw.evaluate(SET_WIDGET, [node, widget, value])

    def queue(self):
        """Presses Run; the prompt's id, or `RequestError` where the server refuses it."""
        with self.raw.expect_response(is_prompt_answer) as answer:
            self.raw.evaluate("() => { app.queuePrompt(0, 1) }")
        body = answer.value.json()
        if "prompt_id" not in body:
            raise RequestError(answer.value.status, body)
        return body["prompt_id"]

    def queue_and_wait(self, timeout=600):
        """Runs the graph; its history entry, once the page has heard of the end too."""
        prompt_id = self.queue()
        entry = self.server.wait(prompt_id, timeout)
        self.raw.wait_for_function("id => endedPrompts.has(id)", arg=prompt_id)
        return entry

    def fit(self):
        """The whole graph in view."""
        self.raw.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.raw.wait_for_timeout(700)

    def screenshot(self, path):
        self.raw.screenshot(path=str(path))

    def _note(self, message):
        url = message.location.get("url", "")
        if message.type == "error" and not is_of_the_host(message.text, url, self.server.url):
            self.errors.append(f"{message.text} [{url}]")


def is_prompt_answer(response):
    return response.request.method == "POST" and urlsplit(response.url).path == "/api/prompt"


def is_of_the_host(text, url, server):
    """What the front end itself logs: files a new user does not have, its start-up order, the world outside the server.

    Outside are the models of its first graph and its news, which no test depends on; the pack asks for nothing there.
    """
    path = urlsplit(url).path
    if "/extensions/asyncdiff" in path or "asyncdiff" in text.lower():
        return False
    if text.startswith("Failed to load resource"):
        missing = path in ("/user.css", "/favicon.ico") or path.startswith("/api/userdata")
        return missing or not url.startswith(server)
    if "Content Security Policy" in text:
        return path.startswith("/assets/") and "https://" in text
    return text == "ComfyApp graph accessed before initialization" and path.startswith("/assets/")
