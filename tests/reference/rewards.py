"""The scorer against the packages that its metrics come from: the same numbers, and what they cost.

    python tests/reference/rewards.py compare --reference-python reference/bin/python
    python tests/reference/rewards.py bench --reference-python reference/bin/python --metric image-reward

`packages.py` says how to make that Python. Weights are random, of full size, in the layouts of the official files; they
are written to a folder of the exchange (up to 4 GB) and removed metric after metric. `compare` fails where an embedding
differs at all, a score by more than 1e-7 (of the cosine, for PickScore), or a thing made wrong goes unnoticed.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exchange import Worker
from reference.material import (
    BERT_WORDS,
    CLIP_WORDS,
    as_bench,
    make_pairs,
    weight_files,
    write_bert_words,
    write_weights,
)

METRICS = ("image-reward", "hps-v2", "hps-v2.1", "clip-score", "pick-score")
SEEDS = {name: number for number, name in enumerate(METRICS)}
EMBEDDING_BAR, SCORE_BAR = 0.0, 1e-7
LOGIT_SCALE = 22.1979  # exp(3.1), which the random weights have
CONTROLS = ("epsilon", "input")
PROMPT = "a photo of an astronaut in an orange suit in front of a flag"
HELP = {
    "pairs": "pictures with a prompt each, at most 8",
    "runs": "interleaved runs of each side",
    "batch": "pictures of one prompt in a run",
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "TOKENIZERS_PARALLELISM": "false"}
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, sizes in (("compare", compare, {"pairs": 8}), ("bench", bench, {"runs": 3, "batch": 16})):
        command = commands.add_parser(name)
        command.add_argument("--reference-python", required=True, help="the Python of packages.py")
        command.add_argument("--metric", nargs="+", choices=METRICS, default=list(METRICS))
        command.add_argument("--folder", type=Path, help="where to exchange files (default: a temporary folder)")
        for size, default in sizes.items():
            command.add_argument(f"--{size}", type=int, default=default, help=f"{HELP[size]} (default: {default})")
        command.set_defaults(run=run)
    command.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    args = parser.parse_args()
    args.reference_python = str(Path(args.reference_python).absolute())
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        raise SystemExit(args.run(args, Path(folder)))


def reference(args, folder, **environment):
    return Worker(args.reference_python, "packages.py", folder, **OFFLINE, **environment)


def scorer(folder, **environment):
    return Worker(sys.executable, "scorer.py", folder, **environment)


def prepare(args, folder, count):
    """Pictures and vocabularies; ``count`` pairs of a picture and a prompt."""
    with scorer(folder, **HIDDEN) as ours, reference(args, folder, **HIDDEN) as theirs:
        found = ours("describe"), theirs("describe")
        theirs("pictures", folder=str(folder))
        (folder / CLIP_WORDS).mkdir()
        theirs("words", folder=str(folder / CLIP_WORDS))
    print("scorer:    " + ", ".join(f"{name} {version}" for name, version in found[0].items()))
    print("reference: " + ", ".join(f"{name} {version}" for name, version in found[1].items()))
    if found[0]["torch"] != found[1]["torch"]:
        print(
            "The two have different builds of torch, which sum in different orders: differences of 1e-6 are expected."
        )
    pairs = make_pairs(folder, count, broken=found[0]["ftfy"] != "absent")
    write_bert_words(folder / BERT_WORDS, [prompt for _, prompt in pairs])
    return pairs


# --- the same numbers ---------------------------------------------------------------------------------------------


def compare(args, folder):
    """0 where every metric is within the bars and every control beyond them, else 1."""
    pairs = prepare(args, folder, args.pairs)
    print(f"{len(pairs)} pictures and prompts, one at a time, float32 on the CPU; largest absolute differences\n")
    print("metric         vision     text       score      spread     in a batch  controls")
    good = [compare_metric(args, folder, metric, pairs) for metric in args.metric]
    print("\nAll within the bars." if all(good) else "\nNOT within the bars.")
    return 0 if all(good) else 1


def compare_metric(args, folder, metric, pairs):
    write_weights(metric, folder, SEEDS[metric])
    theirs = ask_reference(args, folder, metric, pairs)
    ours, batched, controls = ask_scorer(folder, metric, pairs)
    for file in weight_files(folder):
        file.unlink()
    bar = SCORE_BAR * (LOGIT_SCALE if metric == "pick-score" else 1)
    found = {name: difference(ours[name], theirs[name]) for name in ("vision", "text", "score")}
    noticed = {name: difference(wrong, theirs["score"][: len(wrong)]) for name, wrong in controls.items()}
    spread = difference(theirs["score"].amax(), theirs["score"].amin())
    values = "".join(f"{value:<11.2g}" for value in (*found.values(), spread))
    told = ", ".join(f"{name} {value:.2g}" for name, value in noticed.items())
    print(f"{metric:<15}{values}{difference(batched, theirs['score']):<12.2g}{told}", flush=True)
    close = max(found["vision"], found["text"]) <= EMBEDDING_BAR and found["score"] <= bar
    return close and min(noticed.values()) > 10 * bar


def ask_reference(args, folder, metric, pairs):
    from safetensors.torch import load_file

    with reference(args, folder, **HIDDEN) as theirs:
        theirs("load", metric=metric, folder=str(folder))
        theirs("pairs", pairs=pairs, out=str(folder / "theirs.out"))
    return load_file(folder / "theirs.out")


def ask_scorer(folder, metric, pairs):
    """Its embeddings and scores, its scores in one batch, and its scores with each thing made wrong."""
    import torch
    from safetensors.torch import load_file

    controls = {}
    with scorer(folder, **HIDDEN) as ours:
        ours("load", metric=metric, folder=str(folder))
        ours("pairs", pairs=pairs, out=str(folder / "ours.out"))
        batched = torch.tensor(ours("batched", pairs=pairs))
        for control in CONTROLS:
            ours("load", metric=metric, folder=str(folder))
            ours("spoil", control=control)
            ours("pairs", pairs=pairs[:1], out=str(folder / "wrong.out"))
            controls[control] = load_file(folder / "wrong.out")["score"]
    return load_file(folder / "ours.out"), batched, controls


def difference(ours, theirs):
    return float((ours.double() - theirs.double()).abs().max())


# --- what they cost -----------------------------------------------------------------------------------------------


def bench(args, folder):
    """Images per second of both, interleaved, and the memory that each process held at most."""
    prepare(args, folder, 1)
    paths = as_bench(folder, args.batch)
    print(f"{args.batch} pictures of 512 × 512 with one prompt, {args.runs} interleaved pairs of runs, {args.device}")
    print("seconds are those of the device; on a CPU those that the process was given, of all its threads\n")
    print("metric         scorer img/s  reference img/s  ratio [all]               peak GiB: scorer, reference")
    for metric in args.metric:
        write_weights(metric, folder, SEEDS[metric])
        print(f"{metric:<15}{bench_metric(args, folder, metric, paths)}", flush=True)
        for file in weight_files(folder):
            file.unlink()
    return 0


def bench_metric(args, folder, metric, paths):
    seconds = [], []
    with scorer(folder) as ours, reference(args, folder) as theirs:
        for side in (ours, theirs):
            side("load", metric=metric, folder=str(folder), device=args.device)
            side("time", paths=paths[:1], prompt=PROMPT)  # warms up
        for run in range(args.runs):
            for number in (0, 1) if run % 2 == 0 else (1, 0):
                seconds[number].append((ours, theirs)[number]("time", paths=paths, prompt=PROMPT))
        peaks = ours("peak"), theirs("peak")
    ratios = sorted(b / a for a, b in zip(*seconds, strict=True))
    speeds = [args.batch / median(taken) for taken in seconds]
    shown = f"{median(ratios):.2f} [{ratios[0]:.2f} … {ratios[-1]:.2f}]"
    return f"{speeds[0]:<14.3f}{speeds[1]:<17.3f}{shown:<26}{peaks[0]:.1f}, {peaks[1]:.1f}"


if __name__ == "__main__":
    main()
