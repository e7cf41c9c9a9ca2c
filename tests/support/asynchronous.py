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
