"""What the nodes cost in ComfyUI: Asynchronous KSampler over KSampler, interleaved, on a small SD3.5 at 512².

    python tests/host/bench.py [--pairs 21]

Random weights: only the time counts.
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
    pairs = parser.parse_args().pairs
    sys.path.insert(0, str(ROOT / "tests"))
    from host.inside import enter

    core = enter()
    if isinstance(core, str):
        raise SystemExit(core)
    measure(core, pairs)


def measure(core, pairs):
    import torch

    from asyncdiff.nodes.host import attach
    from asyncdiff.tpm.bench import Overhead, interleaved
    from asyncdiff.tpm.module import SD35, TPM
    from asyncdiff.tpm.policies import Constant, Learned
    from host import stand_ins

    model = stand_ins.load(stand_ins.sd35(depth=2))
    context, pooled = stand_ins.text_widths()
    tpm = TPM(replace(SD35, context_dim=context, pooled_dim=pooled)).eval()
    text, none = stand_ins.conditioning(0, tokens=77), stand_ins.conditioning(1, tokens=77)

    def run(patched):
        def seconds():
            latent = {"samples": torch.zeros(1, 16, SIDE, SIDE)}
            started = time.perf_counter()
            core.common_ksampler(patched, 1, STEPS, 5.0, "euler", "simple", text, none, latent)
            return time.perf_counter() - started

        return seconds

    for name, policy in (("constant policy", Constant(0.2)), ("TPM of the paper's size", Learned(tpm))):
        cost = Overhead(name, STEPS, *interleaved(run(model), run(attach(model, policy)), pairs))
        print(f"{name}: {cost.ratio:.3f} of KSampler ({pairs} pairs, {min(cost.plain):.2f} s a run)")


if __name__ == "__main__":
    main()
