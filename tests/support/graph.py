"""A workflow as the front end saves it (LiteGraph 0.4), turned into the prompt the server runs, without a browser."""

from typing import NamedTuple

from support.subgraphs import flattened

WIDGETS = {
    *("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", "COLOR", "BOUNDING_BOX", "CURVE", "RANGE"),
    *("MARKDOWN", "IMAGECOMPARE", "CHART", "GALLERIA", "PAINTER", "TEXTAREA"),
}
VIRTUAL = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"  # a choice that brings inputs of its own, "choice.input"
OWN_OPTIONS = "CustomCombo"  # its options are widgets that only the front end knows
UPLOADS = ("image_upload", "video_upload", "audio_upload")
MUTED, BYPASSED = 2, 4


class Literal(NamedTuple):
    """What a PrimitiveNode hands over: a value where others hand over a link."""

    value: object


def to_prompt(workflow, object_info):
    """`{node id: {"class_type", "inputs"}}` for POST /prompt, as the front end would build it.

    `object_info` is the server's description of its nodes. Muted nodes disappear, bypassed ones and reroutes are seen
    through, subgraphs opened. ValueError for an unknown node, or for saved values that do not fit the node's widgets.
    """
    if workflow.get("definitions", {}).get("subgraphs"):
        workflow = flattened(workflow, runs)
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
    named = {}
    if isinstance(saved, dict):
        for name, default in widgets(info, named):
            named[name] = saved.get(name, default)
    else:
        left = take(saved, widgets(info, named), named)
        left = take(left, own_options(left), named) if node["type"] == OWN_OPTIONS else left
        surplus = [value for value in left if value is not None]
        if surplus and any(True for _ in widgets(info, named)):
            raise ValueError(f"node {node['id']} ({node['type']}): no widget takes the saved values {surplus}")
    return {name: wrapped(value) for name, value in named.items() if name}


def take(saved, slots, named):
    """Gives each place its saved value, or its default; returns the values that are left."""
    left = list(saved)
    for name, default in slots:
        named[name] = left.pop(0) if left else default
    return left


def own_options(values):
    """Places of the options of Custom Combo, behind its choice: which one that is, and all of them."""
    yield from (("index" if place == 0 else f"option{place}", None) for place in range(len(values)))


def widgets(info, named):
    """(name, default) of each place in `widgets_values`; the name is None where the server is told nothing of it.

    named: the values of the places so far, which decide the places after a choice with inputs of its own.
    """
    specs = specs_of(info["input"])
    yield from places(specs, named)
    if any(rest and rest[0].get(upload) for _, *rest in specs.values() for upload in UPLOADS):
        yield None, None


def specs_of(inputs):
    return {**inputs.get("required", {}), **inputs.get("optional", {})}


def places(specs, named, path=""):
    for name, (kind, *rest) in specs.items():
        options = rest[0] if rest else {}
        if kind == DYNAMIC_COMBO:
            choices = {choice["key"]: choice["inputs"] for choice in options["options"]}
            yield path + name, next(iter(choices))
            yield from places(specs_of(choices[named[path + name]]), named, f"{path}{name}.")
        elif is_widget(kind, options):
            yield path + name, default_of(kind, options)
            if options.get("control_after_generate", name in ("seed", "noise_seed")):
                yield None, "fixed"


def is_widget(kind, options):
    kind = options.get("widgetType", kind)
    return not options.get("forceInput") and (isinstance(kind, list) or kind in WIDGETS)


def default_of(kind, options):
    choices = kind if isinstance(kind, list) else options.get("options", [])
    return options.get("default", choices[0] if choices else None)


def wrapped(value):
    """A list would read as a link."""
    return {"__value__": value} if isinstance(value, list) else value
