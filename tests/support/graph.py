"""A workflow as the front end saves it (LiteGraph 0.4), turned into the prompt the server runs, without a browser."""

from typing import NamedTuple

WIDGETS = {
    *("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", "COLOR", "BOUNDING_BOX", "CURVE", "RANGE"),
    *("MARKDOWN", "IMAGECOMPARE", "CHART", "GALLERIA", "PAINTER", "TEXTAREA"),
}
VIRTUAL = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
UPLOADS = ("image_upload", "video_upload", "audio_upload")
MUTED, BYPASSED = 2, 4


class Literal(NamedTuple):
    """What a PrimitiveNode hands over: a value where others hand over a link."""

    value: object


def to_prompt(workflow, object_info):
    """`{node id: {"class_type", "inputs"}}` for POST /prompt, as the front end would build it.

    `object_info` is the server's description of its nodes. Muted nodes disappear, bypassed ones and reroutes are seen
    through. ValueError for an unknown node, or for saved values that do not fit the node's widgets.
    """
    if workflow.get("definitions", {}).get("subgraphs"):
        raise ValueError("workflows with subgraphs are not converted")
    graph = Graph(workflow)
    active = [node for node in workflow["nodes"] if node["type"] not in VIRTUAL and runs(node)]
    return {str(node["id"]): entry(node, graph, description(node, object_info)) for node in active}


class Graph:
    """Nodes and links by id."""

    def __init__(self, workflow):
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links = {link[0]: link for link in workflow["links"]}

    def source(self, link_id):
        """`[node id, slot]`, a Literal, or None, behind reroutes and bypassed nodes."""
        if link_id not in self.links:
            return None
        _, origin, slot, _, _, kind = self.links[link_id]
        node = self.nodes[origin]
        if node["type"] == "PrimitiveNode":
            return Literal(node["widgets_values"][0])
        if node["type"] == "Reroute":
            return self.source(node["inputs"][0]["link"])
        if node.get("mode", 0) == BYPASSED:
            return self.source(bypass(node, slot, kind))
        return [str(origin), slot] if runs(node) else None


def runs(node):
    return node.get("mode", 0) not in (MUTED, BYPASSED)


def bypass(node, slot, kind):
    """The link that a bypassed node passes on: its input of that type at the output's place, else the first one."""
    inputs = node.get("inputs", [])
    nearest = inputs[slot : slot + 1] + inputs
    return next((put["link"] for put in nearest if put["type"] in (kind, "*")), None)


def description(node, object_info):
    if node["type"] not in object_info:
        raise ValueError(f"node {node['id']}: the server has no node {node['type']!r}")
    return object_info[node["type"]]


def entry(node, graph, info):
    inputs = widget_values(node, info)
    for put in node.get("inputs", []):
        source = graph.source(put.get("link"))
        if source is not None:
            inputs[put["name"]] = wrapped(source.value) if isinstance(source, Literal) else source
    return {"class_type": node["type"], "inputs": inputs}


def widget_values(node, info):
    """Saved values by name; a widget that is newer than the file has its default."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return {name: wrapped(saved.get(name, default)) for name, default in widgets(info)}
    slots = list(widgets(info))
    surplus = [value for value in saved[len(slots) :] if value is not None]
    if surplus and slots:
        raise ValueError(f"node {node['id']} ({node['type']}): no widget takes the saved values {surplus}")
    padded = [*saved, *(default for _, default in slots[len(saved) :])]
    return {name: wrapped(value) for (name, _), value in zip(slots, padded, strict=False) if name}


def widgets(info):
    """(name, default) of each place in `widgets_values`; the name is None where the server is told nothing of it."""
    specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    for name, (kind, *rest) in specs.items():
        options = rest[0] if rest else {}
        if is_widget(kind, options):
            yield name, default_of(kind, options)
            if options.get("control_after_generate", name in ("seed", "noise_seed")):
                yield None, "fixed"
    if any(rest and rest[0].get(upload) for _, *rest in specs.values() for upload in UPLOADS):
        yield None, None


def is_widget(kind, options):
    kind = options.get("widgetType", kind)
    return not options.get("forceInput") and (isinstance(kind, list) or kind in WIDGETS)


def default_of(kind, options):
    choices = kind if isinstance(kind, list) else options.get("options", [])
    return options.get("default", choices[0] if choices else None)


def wrapped(value):
    """A list would read as a link."""
    return {"__value__": value} if isinstance(value, list) else value
