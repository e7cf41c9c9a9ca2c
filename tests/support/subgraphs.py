"""Subgraphs of a workflow, taken apart: their nodes stand among the others, under the ids that the front end gives."""

INPUT, OUTPUT = -10, -20  # the borders' node ids in the links of a subgraph
OWN = "-1"  # a widget of the node that stands for a subgraph, in its list of `proxyWidgets`


def flattened(workflow, runs):
    """The workflow without subgraphs; node 5 of the subgraph that node 12 stands for is "12:5".

    A border becomes a Reroute, or a PrimitiveNode where nothing is connected and the outer node has a value of its own.
    Nodes that do not run (`runs`) stay closed.
    """
    flat = Flat({graph["id"]: graph for graph in workflow["definitions"]["subgraphs"]}, runs)
    flat.open(workflow, "")
    return {"nodes": flat.nodes, "links": flat.links}


class Flat:
    """Nodes and links found so far."""

    def __init__(self, subgraphs, runs):
        self.subgraphs, self.runs = subgraphs, runs
        self.nodes, self.links = [], []

    def open(self, graph, path):
        """Adds the nodes and links of a graph whose ids begin with this path, and those of the subgraphs in it."""
        opened = {node["id"] for node in graph["nodes"] if node["type"] in self.subgraphs and self.runs(node)}
        for node in graph["nodes"]:
            if node["id"] in opened:
                self.open_subgraph(node, path)
            else:
                inputs = [put | {"link": renamed(put.get("link"), path)} for put in node.get("inputs", [])]
                self.nodes.append(node | {"id": f"{path}{node['id']}", "inputs": inputs})
        for link in map(listed, graph["links"]):
            self.links.append([renamed(link[0], path), *origin(link, path, opened), *link[3:]])

    def open_subgraph(self, node, path):
        subgraph, inner = self.subgraphs[node["type"]], f"{path}{node['id']}:"
        links = {put["name"]: renamed(put.get("link"), path) for put in node.get("inputs", [])}
        values = own_values(node)
        for slot, put in enumerate(subgraph["inputs"]):
            name, link = put["name"], links.get(put["name"])
            made = primitive(values[name]) if link is None and name in values else reroute(link)
            self.nodes.append(made | {"id": border(inner, INPUT, slot)})
        ends = {link[4]: link[0] for link in map(listed, subgraph["links"]) if link[3] == OUTPUT}
        for slot, link in ends.items():
            self.nodes.append(reroute(renamed(link, inner)) | {"id": border(inner, OUTPUT, slot)})
        self.open(subgraph, inner)


def listed(link):
    """[id, origin, slot, target, slot, type]; inside subgraphs the front end writes objects."""
    if isinstance(link, list):
        return link
    return [link[name] for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")]


def renamed(number, path):
    return None if number is None else f"{path}{number}"


def origin(link, path, opened):
    """(node, slot) that a link comes from, once subgraphs are opened."""
    _, node, slot, *_ = link
    if node == INPUT:
        return border(path, INPUT, slot), 0
    if node in opened:
        return border(f"{path}{node}:", OUTPUT, slot), 0
    return f"{path}{node}", slot


def border(path, side, slot):
    return f"{path}{'in' if side == INPUT else 'out'}.{slot}"


def reroute(link):
    return {"type": "Reroute", "inputs": [{"name": "", "type": "*", "link": link}]}


def primitive(value):
    return {"type": "PrimitiveNode", "widgets_values": [value]}


def own_values(node):
    """Values that the outer node itself holds for inputs of its subgraph, by name."""
    widgets = node.get("properties", {}).get("proxyWidgets", [])
    pairs = zip(widgets, node.get("widgets_values") or [], strict=False)
    return {name: value for (place, name), value in pairs if place == OWN and value is not None}
