"""A prompt of core's nodes made asynchronous, as a user would do it."""

import copy

from support.blueprints import ends
from support.graph import widgets

DEVIATION = 0.3
APPLY = "AsyncDiffApply"


def with_apply(prompt, info, gamma, whole=False):
    """Apply on every MODEL on its way into a sampler or guider; whole: with the SIGMAS of the whole run, for parts.

    Of a guider with two models the first is patched, as the help page says.
    """
    prompt = with_policy(prompt)
    for key, node in list(prompt.items()):
        if takes_model(node, info):
            patch = settings(info[APPLY]) | policy(gamma) | {"model": node["inputs"]["model"]}
            prompt[f"{key}.apply"] = {"class_type": APPLY, "inputs": patch}
            if whole:
                patch["sigmas"] = [f"{key}.sigmas", 0]
                prompt[f"{key}.sigmas"] = grid_of(node)
            node["inputs"]["model"] = [f"{key}.apply", 0]
            prompt[f"{sampler_of(key, prompt)}.report"]["inputs"]["trace"] = [f"{key}.apply", 1]
    return prompt


def sampler_of(key, prompt):
    """The sampler that a node is, or whose guider it is."""
    return next((other for other, node in prompt.items() if node["inputs"].get("guider") == [key, 0]), key)


def with_own_samplers(prompt, info, gamma):
    """The pack's KSamplers in the place of core's."""
    prompt = with_policy(prompt)
    for node in prompt.values():
        own = f"AsyncDiff{node['class_type']}"
        if node["class_type"] in ("KSampler", "KSamplerAdvanced"):
            node["inputs"] = settings(info[own]) | node["inputs"] | policy(gamma)
            node["class_type"] = own
    return prompt


def with_policy(prompt):
    constant = {"class_type": "AsyncDiffConstantDeviation", "inputs": {"deviation": DEVIATION}}
    return copy.deepcopy(prompt) | {"policy": constant}


def policy(gamma):
    return {"policy": ["policy", 0], "gamma": gamma}


OWN = ("policy", "gamma", "bound", "tail_sync", "velocity_coupling", "before", "stay_in_part")
"""What the pack's KSamplers have beside core's inputs."""


def with_values(prompt, values):
    """Other values of inputs by class."""
    return {
        key: node | {"inputs": node["inputs"] | values.get(node["class_type"], {})} for key, node in prompt.items()
    }  # fmt: skip


def with_core_samplers(prompt):
    """Core's KSamplers in the place of the pack's."""
    replaced = copy.deepcopy(prompt)
    for node in replaced.values():
        kind = node["class_type"].removeprefix("AsyncDiff")
        if kind in ("KSampler", "KSamplerAdvanced"):
            node["class_type"] = kind
            node["inputs"] = {name: value for name, value in node["inputs"].items() if name not in OWN}
    return replaced


def without_pack(prompt):
    """An asynchronous prompt with core's nodes alone: patches are seen through, charts are left out."""
    prompt = with_core_samplers(prompt)
    patches = {key: node["inputs"]["model"] for key, node in prompt.items() if "Apply" in node["class_type"]}
    encoders = {key for key, node in prompt.items() if node["class_type"] == "AsyncDiffRegionsFromPrompt"}
    for key, node in prompt.items():
        if key in encoders:
            prompt[key] = {"class_type": "CLIPTextEncode", "inputs": only(node["inputs"], "clip", "text")}
        if node["class_type"] == "AsyncDiffPixelwiseSampler":
            prompt[key] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in patches:
                node["inputs"][name] = patches[value[0]]
            elif isinstance(value, list) and value[0] in encoders:
                node["inputs"][name] = [value[0], 0]
    return {key: node for key, node in prompt.items() if not node["class_type"].startswith("AsyncDiff")}


def only(inputs, *names):
    return {name: inputs[name] for name in names}


def settings(info):
    """The widgets of a node as they are when it is made."""
    return {name: default for name, default in widgets(info, {}) if name}


def takes_model(node, info):
    made, taken = ends(info[node["class_type"]])
    return taken.get("model") == "MODEL" and made[:1] in (["LATENT"], ["GUIDER"])


def grid_of(sampler):
    """The SIGMAS of all the steps that a KSampler (Advanced) counts."""
    inputs = {name: sampler["inputs"][name] for name in ("model", "scheduler", "steps")}
    return {"class_type": "BasicScheduler", "inputs": inputs | {"denoise": 1.0}}
