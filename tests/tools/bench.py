"""What the nodes cost in ComfyUI, interleaved with the stock run: Asynchronous KSampler, and pixel-wise denoising.

    python tests/tools/bench.py [--pairs 21] [--only timesteps|waits|pixelwise]

Waits for the device are counted with a stand-in for one, from runs of two lengths.

Random weights: only the time counts. Asynchronous KSampler runs on a small SD3.5 at 512². Pixel-wise runs are measured
in processor time, on networks whose layers are as wide as they need to be for the ratio to be that of real ones: a UNet
of SD1.5's own width at 256², an MMDiT of width 512 at 512².
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEPS, SIDE = 8, 64  # 64 × 64 latents: 512² images


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=21, help="interleaved pairs (default: 21)")
    parser.add_argument("--only", choices=("timesteps", "waits", "pixelwise"), help="one of the tables")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from support.inside import enter

    core = enter()
    if isinstance(core, str):
        raise SystemExit(core)
    if args.only in (None, "timesteps"):
        measure(core, args.pairs)
    if args.only in (None, "waits"):
        count_waits(core)
    if args.only in (None, "pixelwise"):
        measure_pixelwise(args.pairs)


def count_waits(core):
    """What is added per step and per run on a device, by policy."""
    from asyncdiff.nodes.retiming import patch
    from asyncdiff.nodes.retiming import run as host_run
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming
    from support import stand_ins, waits
    from support.retiming_runs import Log

    host_run.waits_for = waits.waits_for
    model = stand_ins.load(stand_ins.sd35())
    run = sampling(core, side=8)
    for name, policy, retiming in (
        ("γ = 0", Constant(0.2), Retiming(gamma=0)),
        ("constant", Constant(0.2), Retiming()),
        ("constant, p = 1", Constant(0.2), Retiming(velocity_coupling=1)),
        ("TPM", paper_tpm(), Retiming()),
    ):
        for watched in (False, True):
            watcher = Log() if watched else None
            per_step, per_run, _ = waits.waits_added(run, patch.attach(model, policy, retiming, watcher))
            print(f"{name}{', watched' if watched else ''}: {per_step:g} waits added per step, {per_run:g} per run")


def sampling(core, side):
    """A function that samples a model of SD3.5's kind by common_ksampler."""
    import torch

    from support import stand_ins

    text, none = stand_ins.conditioning(0, tokens=77), stand_ins.conditioning(1, tokens=77)

    def run(model, steps=STEPS, sampler="euler"):
        latent = {"samples": torch.zeros(1, 16, side, side)}
        return core.common_ksampler(model, 1, steps, 5.0, sampler, "simple", text, none, latent)[0]["samples"]

    return run


def paper_tpm():
    """A TPM of the paper's size, for the stand-in's texts."""
    from asyncdiff.tpm.policies import Learned
    from asyncdiff.tpm.policies.network import SD35, TPM
    from support import stand_ins

    context, pooled = stand_ins.text_widths()
    return Learned(TPM(replace(SD35, context_dim=context, pooled_dim=pooled)).eval())


def measure(core, pairs):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.cli.bench.retiming import Overhead, interleaved
    from asyncdiff.tpm.policies import Constant
    from support import stand_ins

    model, sample = stand_ins.load(stand_ins.sd35(depth=2)), sampling(core, SIDE)

    def run(patched):
        def seconds():
            started = time.perf_counter()
            sample(patched)
            return time.perf_counter() - started

        return seconds

    for name, policy in (("constant policy", Constant(0.2)), ("TPM of the paper's size", paper_tpm())):
        cost = Overhead(name, STEPS, *interleaved(run(model), run(attach(model, policy)), pairs))
        print(f"{name}: {cost.ratio:.3f} of KSampler ({pairs} pairs, {min(cost.plain):.2f} s a run)")


def measure_pixelwise(pairs):
    """Two drawn regions, two regions from a prompt, and the control, over Euler on the same network."""
    import torch

    from asyncdiff.nodes.pixelwise.patch import attach
    from asyncdiff.tpm.cli.bench.retiming import Overhead, interleaved
    from asyncdiff.tpm.pixelwise.requests import Phrase, Regions
    from support import stand_ins
    from support.pixelwise_runs import Bench, sampler

    text = Regions((Phrase("cat", 0.5, (4, 5)), Phrase("dog", 0.3, (9,))), text_length=77)
    for name, weights, side in (("sd15", stand_ins.sd15(), 32), ("sd35", stand_ins.sd35(depth=8), SIDE)):
        bench = Bench(name, stand_ins.load(weights), side)
        latent, tokens = torch.zeros(1, *bench.shape[1:]), 77
        options = {"steps": 3, "latent": latent, "positive": bench.text(0, tokens), "negative": bench.text(1, tokens)}

        def run(model, using, bench=bench, options=options):
            def seconds():
                started = time.process_time()
                bench.run(model, using, **options)
                return time.process_time() - started

            return seconds

        drawn, prompted = bench.attached(0.5, 0.3), attach(bench.model, text)
        for label, patched, using in (
            ("drawn regions", drawn, sampler()),
            ("regions from a prompt", prompted, sampler()),
            ("concave", prompted, sampler(concave=True)),
        ):
            cost = Overhead(label, 3, *interleaved(run(bench.model, "euler"), run(patched, using), pairs))
            kind = "UNet" if name == "sd15" else "MMDiT"
            print(
                f"{kind}, {label}: {cost.ratio:.3f} of Euler ({pairs} pairs, {min(cost.plain):.2f} s a run)", flush=True
            )


if __name__ == "__main__":
    main()
