"""Processor time that is added to a step in ComfyUI, with a network that computes nothing. Rounds are interleaved.

Two figures: the median of the differences to the stock run of the same round; and the difference of the least times,
which tells what the code itself takes where other work on the machine disturbs some rounds.

    python tests/tools/step_cost.py [--rounds 21] [--detail-daemon FOLDER]

FOLDER: a checkout of ComfyUI-Detail-Daemon, to be measured beside it. The stock run against itself shows the noise.
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from unittest.mock import MagicMock

ROOT = Path(__file__).resolve().parents[2]
STEPS, SIDE = 60, 16  # a small latent: on a device, arithmetic on it takes no time of the processor


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21, help="interleaved rounds (default: 21)")
    parser.add_argument("--detail-daemon", type=Path, help="a checkout of ComfyUI-Detail-Daemon")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from support.inside import enter

    core = enter()
    if isinstance(core, str):
        raise SystemExit(core)
    for cfg in (1.0, 5.0):
        report(cfg, runs(cfg, args.detail_daemon), args.rounds)


def runs(cfg, detail_daemon):
    """Functions that sample once, by name."""
    import torch

    from asyncdiff.nodes.retiming.live import LiveView
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming
    from support import stand_ins

    model = stand_ins.load(stand_ins.sd35())
    model.model.diffusion_model.forward = lambda x, *args, **options: torch.zeros_like(x)

    def attached(watcher=None, **settings):
        return attach(model, Constant(0.2), Retiming(**settings), watcher)

    euler = sampler_of("euler")
    found = {
        "stock": (model, euler),
        "stock again": (model, euler),
        "γ = 0": (attached(gamma=0.0), euler),
        "constant": (attached(), euler),
        "constant, σ on a device": (attached(), on_device(euler)),
        "constant, p = 1": (attached(velocity_coupling=1.0), euler),
        "live node, nobody watches": (attached(LiveView("1")), euler),
        "live node, a browser watches": (attached(watched("1")), euler),
    }
    if detail_daemon:
        found["Detail Daemon"] = (model, daemon(detail_daemon, euler))
    return {name: once(patched, sampler, cfg) for name, (patched, sampler) in found.items()}


def on_device(sampler):
    """The same sampler, where this pack takes the processor for a device: the host may not read σ."""
    import comfy.samplers

    from asyncdiff.nodes.retiming import run as host_run

    class OnDevice(comfy.samplers.KSAMPLER):
        def sample(self, *args, **kwargs):
            waits_for, host_run.waits_for = host_run.waits_for, lambda tensor: True
            try:
                return super().sample(*args, **kwargs)
            finally:
                host_run.waits_for = waits_for

    return OnDevice(sampler.sampler_function, sampler.extra_options, sampler.inpaint_options)


def watched(node):
    """A live view with a browser at the other end of a server that is not there."""
    from asyncdiff.nodes.retiming.live import EVENT, LiveView

    server = SimpleNamespace(client_id="here", send_sync=lambda *args: None)

    class View(LiveView):
        watching = True

        def _send(self, **message):
            server.send_sync(EVENT, {"node": node, **message}, server.client_id)

    return View(node)


def sampler_of(name):
    import comfy.samplers

    return comfy.samplers.sampler_object(name)


def daemon(folder, euler):
    """Detail Daemon's sampler at its defaults. It imports matplotlib, for pictures that are not drawn here."""
    for name in ("matplotlib", "matplotlib.pyplot"):
        sys.modules.setdefault(name, MagicMock())
    spec = importlib.util.spec_from_file_location("detail_daemon_node", folder / "detail_daemon_node.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    node = module.DetailDaemonSamplerNode
    defaults = {name: kind[1]["default"] for name, kind in node.INPUT_TYPES()["required"].items() if name != "sampler"}
    return node.go(euler, **defaults)[0]


def once(model, sampler, cfg):
    """A function that gives the processor time of one run, in milliseconds per step."""
    import comfy.sample
    import torch

    from support import stand_ins

    noise = torch.randn(1, 16, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    sigmas = torch.linspace(1, 0, STEPS + 1)
    text = [stand_ins.conditioning(seed, tokens=77) for seed in (0, 1)]

    def run():
        started = time.process_time()
        comfy.sample.sample_custom(
            model, noise, cfg, sampler, sigmas, *text, torch.zeros_like(noise), disable_pbar=True
        )
        return 1000 * (time.process_time() - started) / STEPS

    return run


def report(cfg, found, rounds):
    """Print what each run adds to the stock run of its round."""
    taken, order = {name: [] for name in found}, list(found)
    for run in found.values():
        run()
    for _ in range(rounds):
        for name in order:
            taken[name].append(found[name]())
        order = order[1:] + order[:1]
    print(f"cfg {cfg:g}: stock {median(taken['stock']):.2f} ms of processor time per step, {rounds} rounds")
    for name, times in taken.items():
        if name != "stock":
            added = median(mine - stock for mine, stock in zip(times, taken["stock"], strict=True))
            print(f"  {name:<30} {added:+.3f} ms, least {min(times) - min(taken['stock']):+.3f} ms", flush=True)


if __name__ == "__main__":
    main()
