"""Core's blueprints and templates as prompts that a CPU runs: small sizes, and stand-ins for the files they load.

The files are the host's; nothing of them is kept here. Everything but the loaders (`support.stand_in_nodes`) is core's.
"""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from support.graph import to_prompt
from support.server import RequestError

TEXT = "a large red circle"
PICTURE = {"type": "LoadImage", "widgets_values": ["example.png", "image"]}
SAVE = {"IMAGE": ("SaveImage", "images"), "VIDEO": ("SaveVideo", "video"), "AUDIO": ("SaveAudio", "audio")}


@dataclass(frozen=True)
class Blueprint:
    """A file of the host, the networks that stand for its models, and the values that make it small."""

    file: str  # in blueprints/, in script_examples/, or the name of a template
    codec: str  # one of `stand_in_nodes.codecs`
    entries: Mapping[str, str]  # entries of the zoo by a part of the file that is loaded; "" is any
    face: Mapping[str, object] = field(default_factory=dict)  # values of the blueprint's own inputs
    inner: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # of nodes inside, by class or id
    whole: bool = False  # whether its checkpoint is SDXL with all its levels and its own tokenizer

    def entry(self, file=""):
        return next(entry for part, entry in self.entries.items() if part in file)


class MissingError(Exception):
    """This host does not have the file."""


def prompt_of(blueprint, server, info):
    """`{node id: {"class_type", "inputs"}}`; every sampler's latent is reported under its id and ".report"."""
    return small(original(blueprint, server, info), blueprint, info)


def small(prompt, blueprint, info):
    """The prompt with a blueprint's values, stand-ins for its loaders and reports of its latents."""
    for key, node in prompt.items():
        node["inputs"] |= blueprint.inner.get(node["class_type"], {}) | blueprint.inner.get(key.split(":")[-1], {})
        replace_loader(node, blueprint)
    for key in list(samplers(prompt, info)):
        prompt[f"{key}.report"] = {"class_type": "StandInReport", "inputs": {"latent": [key, 0]}}
    return prompt


def original(blueprint, server, info):
    """The host's file as a prompt, with our values at its face and something that saves its output."""
    if blueprint.file.endswith(".py"):
        return prompt_in_script(server.host / "script_examples" / blueprint.file)
    if not blueprint.file.endswith(".json"):
        return to_prompt(template(server, blueprint.file), info)
    file = server.host / "blueprints" / blueprint.file
    if not file.is_file():
        raise MissingError(f"this ComfyUI has no {blueprint.file}")
    return to_prompt(with_ends(json.loads(file.read_text(encoding="utf-8")), blueprint), info)


def template(server, name):
    try:
        return server.get(f"/templates/{name}.json")
    except RequestError:
        raise MissingError(f"this ComfyUI has no template {name}") from None


def prompt_in_script(file):
    """The first long text of a script, which is a prompt."""
    if not file.is_file():
        raise MissingError(f"this ComfyUI has no {file.name}")
    constants = (node.value for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Constant))
    return json.loads(next(value for value in constants if str(value).strip().startswith("{")))


def with_ends(workflow, blueprint):
    """The blueprint's one node with values at its inputs and a node that saves what it makes."""
    [node] = workflow["nodes"]
    for put in node["inputs"]:
        if put["name"] in (given := {"text": TEXT} | blueprint.face):
            put["link"] = connect(workflow, given[put["name"]], put)
    made = node["outputs"][0]["type"]
    kind, socket = SAVE[made]
    workflow["links"].append(["saved", node["id"], 0, "save", 0, made])
    saving = {"id": "save", "type": kind, "inputs": [{"name": socket, "type": made, "link": "saved"}]}
    workflow["nodes"].append(saving)
    return workflow


def connect(workflow, value, put):
    """Adds what gives an input its value; the link from there."""
    name, slot = f"face.{put['name']}", int(put["type"] == "MASK")
    node = value if value is PICTURE else {"type": "PrimitiveNode", "widgets_values": [value]}
    workflow["nodes"].append(node | {"id": name})
    workflow["links"].append([name, name, slot, None, 0, put["type"]])
    return name


def replace_loader(node, blueprint):
    """A stand-in for what a loader would read, with the sockets of the loader."""
    if stand_in := STAND_INS.get(node["class_type"]):
        node["class_type"], node["inputs"] = stand_in(blueprint, node["inputs"])


def model(blueprint, inputs):
    file = inputs["unet_name"]
    return "StandInModel", {"entry": blueprint.entry(file), "file": file}


def checkpoint(blueprint, inputs):
    if blueprint.whole:
        return "StandInSDXL", {}
    file = inputs["ckpt_name"]
    return "StandInCheckpoint", {"entry": blueprint.entry(file), "file": file, "codec": blueprint.codec}


def texts(blueprint, inputs):
    return "StandInCLIP", {"entry": blueprint.entry()}


def lora(blueprint, inputs):
    return "StandInLora", {name: inputs[name] for name in ("model", "strength_model")}


STAND_INS = {
    "UNETLoader": model,
    "CheckpointLoaderSimple": checkpoint,
    "CLIPLoader": texts,
    "DualCLIPLoader": texts,
    "LTXAVTextEncoderLoader": texts,
    "LoraLoaderModelOnly": lora,
    "VAELoader": lambda blueprint, inputs: ("StandInVAE", {"codec": blueprint.codec}),
    "LTXVAudioVAELoader": lambda blueprint, inputs: ("StandInVAE", {"codec": "LTX sound"}),
    "LatentUpscaleModelLoader": lambda blueprint, inputs: ("StandInUpscaler", {}),
}


def samplers(prompt, info):
    """Nodes that make a latent with a MODEL or a GUIDER."""
    for key, node in prompt.items():
        made, taken = ends(info[node["class_type"]])
        if made[:1] == ["LATENT"] and {"MODEL", "GUIDER"} & set(taken.values()):
            yield key


def ends(info):
    """Types of a node's outputs, and of its inputs by name."""
    specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    return info["output"], {name: spec[0] for name, spec in specs.items() if isinstance(spec[0], str)}
