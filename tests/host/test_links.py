"""An input that a node validates may come from another node: unknown when the prompt is queued, and checked later."""

import asyncio
import inspect
import itertools

import pytest

from support.retiming_runs import sweep
from support.server import ExecutionError, RequestError

pytestmark = pytest.mark.host
FILLED = {"prompts": "a red circle", "phrases": "red circle"}  # widgets that must not stay empty
SOURCES = {"STRING": "PrimitiveStringMultiline", "FLOAT": "PrimitiveFloat", "INT": "PrimitiveInt"}


@pytest.fixture(scope="module")
def pack(comfy):
    """The pack's nodes by id, known to the host too, with the host's primitives."""
    from comfy_extras import nodes_primitive

    from asyncdiff.nodes.extension import NODES

    primitives = asyncio.run(asyncio.run(nodes_primitive.comfy_entrypoint()).get_node_list())
    known = {node.GET_SCHEMA().node_id: node for node in (*NODES, *primitives)}
    comfy.NODE_CLASS_MAPPINGS.update(known)
    return {name: node for name, node in known.items() if node in NODES}


def own(node, method):
    """The names that a node's own `method` takes; none where the node has no such method."""
    function = node.__dict__.get(method)
    return [] if function is None else list(inspect.signature(function.__get__(None, node)).parameters)


def subsets(names):
    return itertools.chain.from_iterable(itertools.combinations(names, size) for size in range(1, len(names) + 1))


def defaults(node):
    """What the front end sends for the widgets: their defaults."""
    kinds = node.INPUT_TYPES()
    found = {}
    for name, (kind, *rest) in (kinds["required"] | kinds.get("optional", {})).items():
        options = rest[0] if rest else {}
        choices = options.get("options") if kind == "COMBO" else None
        if "default" in options or choices:
            found[name] = options.get("default", choices[0] if choices else None)
    return found


def test_what_is_linked_is_not_refused_and_stops_nothing(pack):
    tried = 0
    for node in pack.values():
        given = defaults(node)
        for method in ("validate_inputs", "fingerprint_inputs"):
            names = [name for name in own(node, method) if name in given]
            fixed = {name: given[name] for name in names}
            for linked in subsets(names):
                answer = getattr(node, method)(**{**fixed, **dict.fromkeys(linked)})
                assert method == "fingerprint_inputs" or answer is True or set(linked) < set(names), (
                    node,
                    linked,
                    answer,
                )
                tried += 1
    assert tried > 20


def test_every_validated_input_may_be_linked(pack):
    """The host's own check of a prompt whose widget comes from another node, one widget after the other."""
    from execution import validate_inputs

    tried = []
    for name, node in pack.items():
        kinds = node.INPUT_TYPES()["required"]
        for key in own(node, "validate_inputs"):
            source = SOURCES.get(kinds.get(key, ("",))[0])
            if source is None:
                continue
            prompt = {
                "1": {"class_type": source, "inputs": {"value": 1 if source != SOURCES["STRING"] else ""}},
                "2": {"class_type": name, "inputs": {**defaults(node), **FILLED, key: ["1", 0]}},
            }
            _, errors, _ = asyncio.run(validate_inputs("a prompt", prompt, "2", {}))
            about = [error for error in errors if error["extra_info"].get("input_name") == key]
            assert about == [], (name, key)
            tried.append((name, key))
    assert ("AsyncDiffGammaSweep", "gammas") in tried
    assert ("AsyncDiffPolicyFromTrace", "text") in tried


def linked(gammas, **options):
    graph = sweep(gammas, **options)
    graph["sweep"]["inputs"]["gammas"] = ["gammas", 0]
    return graph


def test_a_sweep_takes_its_gammas_from_another_node(server):
    (typed,) = server.images(server.run(sweep("0, 2")), node="grid")
    (given,) = server.images(server.run(linked("0, 2")), node="grid")
    assert given.tobytes() == typed.tobytes()
    with pytest.raises(ExecutionError, match=r"oops.*is not a list"):
        server.run(linked("0, oops"))
    with pytest.raises(RequestError, match=r"oops.*is not a list"):
        server.queue(sweep("0, oops"))


def test_a_link_that_brings_something_else_is_one_sentence(pack):
    """A node of another pack may declare "*" and give anything; a loader gives None for what a checkpoint lacks."""
    from asyncdiff.nodes.links import KINDS
    from asyncdiff.tpm.errors import HostError

    tried = 0
    for node in pack.values():
        for entry in node.GET_SCHEMA().inputs:
            if entry.get_io_type() in KINDS:
                for wrong in ("text", 3.5, object()):
                    with pytest.raises(HostError, match=f"input '{entry.id}' got a .*; connect another output"):
                        node.execute(**{entry.id: wrong})
                    tried += 1
    assert tried >= 60
