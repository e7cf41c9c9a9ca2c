"""Node ids, widgets and sockets are a promise: workflow files that people have shared depend on them.

`schemas.json` holds every node's schema and `locales/en/nodeDefs.json` its words. Both are written from the code:

    UPDATE_SCHEMAS=1 python -m pytest tests/host/test_schemas.py

An update that would break a shared workflow (an id that vanishes, a widget that is not the last) is refused.
"""

import json
import os
from pathlib import Path

import pytest

from support.paths import ROOT

pytestmark = pytest.mark.host

SNAPSHOT = Path(__file__).with_name("schemas.json")
WORDS = ROOT / "locales" / "en" / "nodeDefs.json"
UPDATE = os.environ.get("UPDATE_SCHEMAS") == "1"
HOW = "a schema changed; if that is meant: UPDATE_SCHEMAS=1 python -m pytest tests/host/test_schemas.py"

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "CURVE")
LISTS_OF_THE_HOST = ("sampler_name", "scheduler", "name", "image")  # filled with samplers or with files
KEPT = ("default", "min", "max", "step", "round", "display", "multiline", "control_after_generate", "options")


@pytest.fixture(scope="module")
def nodes(comfy):
    from asyncdiff.nodes.extension import NODES

    return {node.GET_SCHEMA().node_id: node for node in NODES}


@pytest.fixture(scope="module")
def current(nodes):
    return json.loads(json.dumps({name: snapshot(node) for name, node in nodes.items()}))


def snapshot(node):
    schema, info = node.GET_SCHEMA(), node.GET_NODE_INFO_V1()
    required, optional = (info["input"].get(part, {}) for part in ("required", "optional"))
    return {
        "display_name": schema.display_name,
        "inputs": [
            one_input(entry.id, *(required | optional)[entry.id], entry.id in optional) for entry in schema.inputs
        ],
        "outputs": [
            {"name": name, "type": kind} for name, kind in zip(info["output_name"], info["output"], strict=True)
        ],
        "output_node": info["output_node"],
    }


def one_input(name, kind, options, optional):
    kept = {key: options[key] for key in KEPT if options.get(key) not in (None, "")}
    if name in LISTS_OF_THE_HOST:
        kept = {key: value for key, value in kept.items() if key not in ("options", "default")}
    if name == "curve":  # text, in the same units, where the host has no curve editor
        kind, kept = "CURVE", {}
    return {"id": name, "type": kind, **({"optional": True} if optional else {}), **kept}


def words(node):
    schema, info = node.GET_SCHEMA(), node.GET_NODE_INFO_V1()
    outputs = zip(info["output_name"], schema.outputs, strict=True)
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {e.id: {"name": e.display_name or e.id, "tooltip": e.tooltip} for e in schema.inputs},
        "outputs": {str(place): {"name": name, "tooltip": e.tooltip} for place, (name, e) in enumerate(outputs)},
    }


def widgets(schema):
    return [entry["id"] for entry in schema["inputs"] if entry["type"] in WIDGETS]


def broken_promises(old, new):
    """What a workflow saved with the old schemas would lose."""
    for node, before in old.items():
        if node not in new:
            yield f"{node} is gone"
            continue
        after = new[node]
        if widgets(after)[: len(widgets(before))] != widgets(before):
            yield f"{node}: new widgets go to the end ({widgets(before)} became {widgets(after)})"
        gone = {entry["id"] for entry in before["inputs"]} - {entry["id"] for entry in after["inputs"]}
        yield from (f"{node}: the input {name} is gone" for name in sorted(gone))
        kinds = [[entry["type"] for entry in schema["outputs"]] for schema in (before, after)]
        if kinds[1][: len(kinds[0])] != kinds[0]:
            yield f"{node}: new outputs go to the end ({kinds[0]} became {kinds[1]})"


def write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_schemas_are_those_on_file(current):
    recorded = read(SNAPSHOT) if SNAPSHOT.exists() else {}
    assert list(broken_promises(recorded, current)) == []
    if UPDATE:
        write(SNAPSHOT, current)
        return
    assert current == recorded, HOW


def test_the_english_words_are_those_of_the_schemas(nodes):
    from comfy_api.latest import io

    said = {name: words(node) for name, node in nodes.items()}
    if UPDATE:
        write(WORDS, said)
        return
    recorded = read(WORDS)
    if not hasattr(io, "Curve"):
        for document in (said, recorded):
            del document["AsyncDiffDeviationCurve"]["inputs"]["curve"]
    assert said == recorded, HOW


def test_every_node_has_the_prefix_and_explains_itself(nodes):
    for name, node in nodes.items():
        schema = node.GET_SCHEMA()
        assert name.startswith("AsyncDiff")
        assert schema.description, name
        for entry in (*schema.inputs, *schema.outputs):
            assert entry.tooltip, (name, entry.id)


def test_a_widget_in_the_middle_and_a_lost_id_are_noticed(current):
    node = current["AsyncDiffKSampler"]
    moved = node | {"inputs": [*node["inputs"][:2], {"id": "new", "type": "INT"}, *node["inputs"][2:]]}
    appended = node | {"inputs": [*node["inputs"], {"id": "new", "type": "INT"}]}
    shorter = node | {"inputs": node["inputs"][1:], "outputs": node["outputs"][1:]}
    found = [list(broken_promises({"X": node}, {"X": after})) for after in (moved, appended, shorter)]
    assert [len(problems) for problems in found] == [1, 0, 2]
    assert list(broken_promises({"X": node}, {})) == ["X is gone"]


def test_the_menu_has_a_folder_for_each_subject(nodes):
    """Beside core's samplers; what samples is at the top, and no folder names a node that is not there."""
    import nodes as core
    from asyncdiff.nodes.schema import FOLDERS, PREFIX

    root = f"{core.KSampler.CATEGORY}/AsyncDiff"
    places = {name: node.GET_SCHEMA().category for name, node in nodes.items()}
    assert set(places.values()) == {root, *(f"{root}/{folder}" for folder in FOLDERS)}
    assert [name for name, place in places.items() if place == root] == [
        *("AsyncDiffKSampler", "AsyncDiffApply", "AsyncDiffKSamplerAdvanced", "AsyncDiffLoadEmbeddedPipeline")
    ]
    named = {PREFIX + name for names in FOLDERS.values() for name in names}
    assert named - nodes.keys() <= {"AsyncDiffGammaExplorer"}


@pytest.mark.parametrize("wish", ["more detail", "add detail", "prompt adherence"])
def test_nodes_are_found_by_what_people_want(nodes, wish):
    found = [name for name, node in nodes.items() if wish in (node.GET_SCHEMA().search_aliases or [])]
    assert {"AsyncDiffKSampler", "AsyncDiffApply"} <= set(found)
