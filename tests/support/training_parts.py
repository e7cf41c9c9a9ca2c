"""What the tests of training and search share: a small model, texts, and a node's inputs."""

import json

import torch

from support import stand_ins

PROMPTS = ("one", "two", "three", "four")
SIDE = 64
TRAINING = {
    "name": "mine", "prompts": "\n".join(PROMPTS), "steps": 3, "cfg": 2.0, "width": SIDE, "height": SIDE,
    "iterations": 3, "group": 4, "noises": 2, "minibatch": 2, "learning_rate": 0.01, "tail_sync": 0,
    "tpm_size": "small (0.3 M)", "residual_noise": True, "probe_every": 2, "probes": 2, "seed": 3,
}  # fmt: skip
SEARCH = {
    "name": "mine", "prompts": "\n".join(PROMPTS), "steps": 3, "cfg": 2.0, "width": SIDE, "height": SIDE,
    "prompts_per_candidate": 2, "held_out": 2, "generations": 2, "population": 3, "elite": 2, "most_tail": 1,
    "residual_noise": True, "seed": 3,
}  # fmt: skip


def vae():
    """The embedded pipeline's."""
    from asyncdiff.nodes import nodes_embedded

    return nodes_embedded.load_vae(nodes_embedded.FOLDER)


def conditionings(count=4, **options):
    return [stand_ins.conditioning(seed, **options) for seed in range(count)]


def inputs_of(node, settings, model, decoder):
    """Defaults of the schema, with these settings and a conditioning for each prompt."""
    defaults = {entry.id: getattr(entry, "default", None) for entry in node.GET_SCHEMA().inputs}
    sockets = {"model": model, "vae": decoder, "negative": stand_ins.conditioning(99)}
    given = {f"conditioning{n}": entry for n, entry in enumerate(conditionings())}
    return defaults | sockets | {"sampler_name": "euler", "scheduler": "simple", "conditionings": given} | settings


def executed(node, given, monkeypatch):
    """A node's outputs as the executor runs it; its preview would need a run of the server."""
    from comfy_api.latest import ui

    monkeypatch.setattr(ui, "PreviewImage", lambda *_, **__: None)
    with torch.inference_mode():
        return node.execute(**given).args


def weights(path):
    from asyncdiff.tpm.policies.checkpoint import load_tpm

    return load_tpm(path)[0].state_dict()


def same_weights(one, other):
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


def document(path):
    return json.loads(path.read_text(encoding="utf-8"))
