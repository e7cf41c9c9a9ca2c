"""γ Sweep in tests: nothing is remembered from before, and the inputs of a small run of it."""

from types import SimpleNamespace

import torch

from support import stand_ins


def forgetful(monkeypatch, unique_id=None):
    """The node, with an empty memory of earlier runs; unique_id: its own id in the graph."""
    from asyncdiff.nodes.retiming import nodes_sweep, shared, sweep

    monkeypatch.setattr(sweep, "REMEMBERED", shared.Remembered())
    monkeypatch.setattr(nodes_sweep.GammaSweep, "hidden", SimpleNamespace(unique_id=unique_id), raising=False)
    return nodes_sweep.GammaSweep


def inputs_of(model, **changes):
    """All inputs but the strengths, as a queue hands them over."""
    from asyncdiff.tpm.policies import Constant

    usual = {
        "model": model, "seed": 1, "steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
        "positive": stand_ins.conditioning(0), "negative": stand_ins.conditioning(1),
        "latent_image": {"samples": torch.zeros(1, 16, 8, 8)}, "denoise": 1.0, "policy": Constant(0.3),
        "vae": SimpleNamespace(decode=None), "bound": "from policy", "tail_sync": 0, "velocity_coupling": 0.0,
        "title": "",
    }  # fmt: skip
    return usual | changes
