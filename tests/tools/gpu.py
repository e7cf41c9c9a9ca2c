"""What asynchronous sampling costs on a GPU: SD3.5-Medium and Flux.1-dev at full size in ComfyUI, with random weights.

    python tests/tools/gpu.py --out FOLDER [--small] [--minutes 7]

The path of Asynchronous KSampler (`attach`, `common_ksampler`) against stock `common_ksampler`: a constant policy, a
TPM of the paper's size, and the TPM while somebody watches. Rounds are interleaved and medians are taken; the stock run
against itself shows what the clock can tell. Beside the time: peak memory, and the synchronisations that torch reports
(`torch.cuda.set_sync_debug_mode`). Writes gpu.json and gpu.txt. `--small` tries the same on networks of two blocks.
"""

import argparse
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import time
import warnings
from pathlib import Path
from statistics import median
from unittest.mock import MagicMock

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {"sd3": (333, 4096, 2048), "flux": (512, 4096, 768)}  # tokens, width of the context, of the pooled prompt
STEPS = {"sd3": 10, "flux": 6}
CFG = {"sd3": 5.0, "flux": 1.0}
SIDES = (512, 1024)
LEAST_ROUNDS, MOST_ROUNDS = 3, 25


class WithoutVideo(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An empty `av` where it is not installed: ComfyUI imports it for video alone, and its wheel is large."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "av":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__ = [], spec
        return module

    def exec_module(self, module):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and gpu.txt")
    parser.add_argument("--small", action="store_true", help="two blocks, small pictures, any device")
    parser.add_argument("--minutes", type=float, default=7.0, help="end after this time (default: 7)")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    if importlib.util.find_spec("av") is None:
        sys.meta_path.append(WithoutVideo())
    import torch

    from support.inside import enter

    core = enter(cpu=not torch.cuda.is_available())
    if isinstance(core, str):
        raise SystemExit(core)
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(args.out, torch)
    ends = time.monotonic() + 60 * args.minutes
    with torch.inference_mode():
        cases = [(family, side) for family in ("sd3", "flux") for side in ((128, 192) if args.small else SIDES)]
        loaded = None
        for number, (family, side) in enumerate(cases):
            if loaded is None or loaded[0] != family:
                loaded = None
                release(torch)
                loaded = (family, load(torch, family, args.small))
            share = (ends - time.monotonic()) / (len(cases) - number)
            if share < 5:
                report.add({"family": family, "side": side, "left out": "no time was left"})
                continue
            report.add(measure(torch, core, family, loaded[1], side, share, args.small))
        report.add(tpm_call(torch))


# --- models -----------------------------------------------------------------------------------------------------------


def load(torch, family, small):
    """MODEL with random weights in bf16, through ComfyUI's own detection."""
    from support import stand_ins

    where = {"device": "cuda" if torch.cuda.is_available() else "cpu", "dtype": torch.bfloat16}
    _, context, pooled = TEXTS[family]
    if family == "sd3":
        size = {"depth": 2, "dual_blocks": 1} if small else {"depth": 24, "positions": 384, "dual_blocks": 13}
        weights = stand_ins.sd35(widths=(context, pooled), **size, **where)
    else:
        size = {"width": 256} if small else {"width": 3072, "double": 19, "single": 38}
        weights = stand_ins.flux(context=context, pooled=pooled, **size, **where)
    return stand_ins.load(weights)


def release(torch):
    import comfy.model_management

    comfy.model_management.unload_all_models()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tpm_for(torch, family):
    """A policy by a TPM of the paper's size whose answers are not zero."""
    from asyncdiff.tpm.policies import Learned
    from asyncdiff.tpm.policies.network import FLUX, SD35, TPM

    torch.manual_seed(0)
    with torch.inference_mode(False):
        tpm = TPM(SD35 if family == "sd3" else FLUX).eval()
        torch.nn.init.normal_(tpm.head.last.weight, std=0.1)
    return Learned(tpm)


class Quiet:
    """A watcher; `watching` as said."""

    def __init__(self, watching):
        self.watching, self.steps = watching, 0

    def begun(self, sigmas):
        pass

    def conditioned(self, step, decision):
        self.steps += 1

    def finished(self, trace):
        pass


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(torch, core, family, model, side, seconds, small):
    """One family at one size: ratios, memory and synchronisations."""
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Constant

    tpm = tpm_for(torch, family)
    runs = {
        "stock": lambda: model,
        "stock again": lambda: model,
        "constant": lambda: attach(model, Constant(0.2), None, Quiet(False)),
        "TPM": lambda: attach(model, tpm, None, Quiet(False)),
        "TPM, watched": lambda: attach(model, tpm, None, Quiet(True)),
    }
    sample = sampler(torch, core, family, side, 2 if small else STEPS[family])
    finite = {name: bool(torch.isfinite(sample(make())).all()) for name, make in runs.items()}  # and warm
    memory = {name: peak(torch, lambda make=make: sample(make())) for name, make in runs.items()}
    waits = {name: synchronisations(torch, core, family, side, make) for name, make in runs.items()}
    times = interleaved(torch, {name: lambda make=make: sample(make()) for name, make in runs.items()}, seconds)
    rows = {}
    for name, taken in times.items():
        ratios = [mine / stock for mine, stock in zip(taken, times["stock"], strict=True)]
        rows[name] = {
            "ratio": round(median(ratios), 4),
            "quartiles": [round(q, 4) for q in quartiles(ratios)],
            "seconds": round(median(taken), 4),
            "peak_memory_mib": memory[name],
            "synchronisations": waits[name],
            "finite": finite[name],
        }
    return {"family": family, "side": side, "rounds": len(times["stock"]), "rows": rows}


def sampler(torch, core, family, side, steps):
    """A function that samples as KSampler does."""
    from support import stand_ins

    tokens, *widths = TEXTS[family]
    text, none = (stand_ins.conditioning(seed, tokens, widths) for seed in (0, 1))

    def sample(model):
        latent = {"samples": torch.zeros(1, 16, side // 8, side // 8)}
        (done,) = core.common_ksampler(model, 1, steps, CFG[family], "euler", "simple", text, none, latent)
        return done["samples"]

    return sample


def interleaved(torch, runs, seconds):
    """Seconds of every run, in rounds whose order turns, until the time is used."""
    taken, order, ends = {name: [] for name in runs}, list(runs), time.monotonic() + seconds
    for number in range(MOST_ROUNDS):
        began = time.monotonic()
        for name in order:
            synchronise(torch)
            started = time.perf_counter()
            runs[name]()
            synchronise(torch)
            taken[name].append(time.perf_counter() - started)
        order = order[1:] + order[:1]
        if number + 1 >= LEAST_ROUNDS and 2 * time.monotonic() - began > ends:
            break
    return taken


def synchronise(torch):
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak(torch, run):
    """MiB at the most while it ran; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    synchronise(torch)
    torch.cuda.reset_peak_memory_stats()
    run()
    synchronise(torch)
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def synchronisations(torch, core, family, side, make):
    """Per step and per run, by whom, from runs of two lengths; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    found = []
    for steps in (2, 6):
        sample = sampler(torch, core, family, side, steps)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                sample(make())
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = [warning.filename for warning in seen if "synchroniz" in str(warning.message)]
        found.append((len(places), sum(str(ROOT) in place or "/asyncdiff/" in place for place in places)))
    (all_short, ours_short), (all_long, ours_long) = found
    return {
        "per_step": (all_long - all_short) / 4,
        "ours_per_step": (ours_long - ours_short) / 4,
        "ours_per_run": ours_short - (ours_long - ours_short) / 2,
    }


def tpm_call(torch):
    """Milliseconds of one decision of a TPM of the paper's size on a 1024² latent, plain and compiled."""
    from asyncdiff.tpm.policies import Learned
    from asyncdiff.tpm.retiming.contract import StepState, TextCondition

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens, context, pooled = TEXTS["sd3"]
    x = torch.randn(1, 16, 128, 128, device=device)
    text = TextCondition(torch.randn(1, tokens, context, device=device), torch.randn(1, pooled, device=device))
    state = StepState(x, -x, 0.8, 0.7, torch.full((1,), 0.75, device=device), 2, 8, text)
    plain = tpm_for(torch, "sd3")
    rows = {"plain": call_time(torch, plain, state)}
    if device == "cuda":
        try:
            compiled = Learned(plain.tpm, compiled=True)
            rows["compiled"] = call_time(torch, compiled, state)
            rows["difference"] = float((compiled.ratio(state) - plain.ratio(state)).abs().max())
        except Exception as error:  # noqa: BLE001 - a measurement that fails is reported
            rows["compiled"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return {"family": "TPM", "side": 1024, "rows": rows}


def call_time(torch, policy, state):
    """Median milliseconds of a call, the host's time included."""
    taken = []
    for number in range(30):
        synchronise(torch)
        started = time.perf_counter()
        policy.ratio(state)
        synchronise(torch)
        if number >= 5:
            taken.append(1000 * (time.perf_counter() - started))
    return round(median(taken), 3)


def quartiles(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]


# --- report -----------------------------------------------------------------------------------------------------------


class Report:
    """gpu.json and gpu.txt, written anew after every case, so that a run that is cut off leaves what it has."""

    def __init__(self, out, torch):
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        self.out, self.started = out, time.monotonic()
        self.document = {"device": name, "torch": torch.__version__, "cases": []}

    def add(self, case):
        self.document["cases"].append(case)
        self.document["seconds"] = round(time.monotonic() - self.started, 1)
        (self.out / "gpu.json").write_text(json.dumps(self.document, indent=1), encoding="utf-8")
        (self.out / "gpu.txt").write_text(self.text(), encoding="utf-8")
        sys.stdout.write(self.case_text(case) + "\n")
        sys.stdout.flush()

    def text(self):
        head = f"{self.document['device']}, torch {self.document['torch']}, {self.document['seconds']} s\n"
        return head + "\n".join(map(self.case_text, self.document["cases"])) + "\n"

    def case_text(self, case):
        lines = [f"{case['family']} {case['side']}², {case.get('rounds', 0)} rounds {case.get('left out', '')}"]
        for name, row in case.get("rows", {}).items():
            told = row if not isinstance(row, dict) else ", ".join(f"{key} {value}" for key, value in row.items())
            lines.append(f"  {name:<14} {told}")
        return "\n".join(lines)


if __name__ == "__main__":
    main()
