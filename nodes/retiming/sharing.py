"""The policies and decisions that made a picture, written into its metadata by whatever node saves it.

Core's nodes save what stands in the `extra_pnginfo` of their prompt, beside the workflow. When a prompt arrives, an
entry of ours is put there; each run of the prompt writes itself into it, under the number of the node that sampled.

A node that the host takes from its cache does not run. What it did is remembered by what it is made from: its kind, its
widgets, and the same of all nodes before it. The same made anew writes over it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from ...tpm.policies import Policy
from ...tpm.policies.pictures import KEY
from ...tpm.policies.shared import MOST_BYTES, SharedRun, shared_run, size_of, to_document, without_trace
from ...tpm.retiming.trace import Trace

SAMPLING = ("AsyncDiffKSampler", "AsyncDiffKSamplerAdvanced", "AsyncDiffApply", "AsyncDiffGammaSweep")
MOST_REMEMBERED = 128


class Picture(dict[str, Any]):
    """The entry of one prompt: a JSON document that its runs fill. Gone when the host has done with the prompt."""

    def __init__(self, signatures: Mapping[str, str], kinds: Mapping[str, str]) -> None:
        super().__init__(to_document({}))
        self.signatures, self.kinds = signatures, kinds
        self._runs: dict[str, SharedRun] = {}
        self._own: dict[str, int] = {}  # how often a node sampled in this prompt

    def sampled(self, node: str) -> int:
        """Count a run of a node; how many it has made."""
        self._own[node] = self._own.get(node, 0) + 1
        return self._own[node]

    def remember(self, node: str, run: SharedRun) -> None:
        """What a node that the host takes from its cache did, unless it has sampled in this prompt."""
        if node not in self._own:
            self.put(node, run)

    def put(self, node: str, run: SharedRun) -> None:
        """Write a run, as far as there is room."""
        others = {key: kept for key, kept in self._runs.items() if key != node}
        room = MOST_BYTES - sum(map(size_of, others.values()))
        fitting = next((form for form in (run, without_trace(run)) if size_of(form) <= room), None)
        self._runs = others if fitting is None else others | {node: fitting}
        self.update(to_document(self._runs))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, which the host keeps in its history, is a plain dictionary."""
        return dict, (dict(self),)


_waiting: WeakValueDictionary[str, Picture] = WeakValueDictionary()  # by the number of the prompt
_made: OrderedDict[str, SharedRun] = OrderedDict()  # by the signature of the node that sampled


def expect(request: dict[str, Any]) -> dict[str, Any]:
    """Prepare the entry of a prompt that arrives; the host asks before it has looked at it."""
    prompt = request.get("prompt")
    if not isinstance(prompt, dict) or not any(_kind(node) in SAMPLING for node in prompt.values()):
        return request
    picture = Picture(signatures(prompt), {key: _kind(node) for key, node in prompt.items()})
    for node, signature in picture.signatures.items():
        if signature in _made:
            picture.remember(node, _made[signature])
    extra = request["extra_data"] = request.get("extra_data") or {}
    about = extra["extra_pnginfo"] = extra.get("extra_pnginfo") or {}
    about[KEY] = picture
    request["prompt_id"] = request.get("prompt_id") or str(uuid.uuid4())
    _waiting[request["prompt_id"]] = picture
    return request


def publish(policy: Policy, trace: Trace) -> None:
    """A run is over: write it into the pictures of its prompt, and of those that may take it from the host's cache."""
    from comfy_execution.utils import get_executing_context

    where = get_executing_context()
    picture = _waiting.get(where.prompt_id) if where else None
    if where is None or picture is None or not trace.steps:
        return
    node = where.node_id
    run = shared_run(policy, trace, picture.kinds.get(node, ""), picture.sampled(node))
    picture.put(node, run)
    signature = picture.signatures.get(node)
    if signature is None:
        return
    _remember(signature, run)
    for other in list(_waiting.values()):
        for key in (key for key, same in other.signatures.items() if same == signature):
            other.remember(key, run)


def _remember(signature: str, run: SharedRun) -> None:
    _made[signature] = run
    _made.move_to_end(signature)
    while len(_made) > MOST_REMEMBERED:
        _made.popitem(last=False)


def signatures(prompt: Mapping[str, Any]) -> dict[str, str]:
    """What each node of a prompt is made from, as a hash; none for a node in a circle or of no form."""
    known: dict[str, str] = {}
    waiting = dict(prompt)
    while ready := [key for key, node in waiting.items() if not _sources(node) & waiting.keys()]:
        for key in ready:
            known[key] = _signature(waiting.pop(key), known)
    return known


def _signature(node: Any, known: Mapping[str, str]) -> str:
    inputs = node.get("inputs", {}) if isinstance(node, dict) else node
    told = {name: [known.get(v[0]), v[1]] if _is_link(v) else v for name, v in inputs.items()} if inputs else inputs
    return hashlib.sha256(json.dumps([_kind(node), told], sort_keys=True, default=str).encode()).hexdigest()


def _sources(node: Any) -> set[str]:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return {value[0] for value in inputs.values() if _is_link(value)} if isinstance(inputs, dict) else set()


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _kind(node: Any) -> str:
    return str(node.get("class_type", "")) if isinstance(node, dict) else ""


def listen() -> None:
    """Hear of prompts, where there is a server."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.add_on_prompt_handler(expect)
