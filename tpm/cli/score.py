"""``asyncdiff score``: judge the images of a folder, into a table that an interruption does not lose."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ..embedded.judge_file import FILE as JUDGE_FILE
from ..files import EMBEDDED_FOLDER
from ..rewards.base import Metric, RewardError
from ..rewards.catalogue import CATALOGUE, EMBEDDED_JUDGE, PAPER, RESIDUAL_NOISE, digest_files, fingerprint, open_metric
from .shared import options
from .shared.processes import join_processes, process_device
from .shared.tables import as_text

if TYPE_CHECKING:
    from torch import Tensor

    from ..rewards.composite import Composite
    from ..rewards.folder import Item
    from ..rewards.table import Table
    from ..statistics import Interval
    from ..training.distributed import Processes

METRICS = (*CATALOGUE, RESIDUAL_NOISE, EMBEDDED_JUDGE)
SAVE_SECONDS = 5.0


def add_parser(commands: Any) -> None:
    """Declare the command's options."""
    parser = commands.add_parser(
        "score",
        help="judge the images of a folder",
        description="Score images against their prompts with ImageReward, HPSv2, CLIP Score and PickScore from local"
        " files, and write a table with the raw scores and their composite R. Interrupted, it goes on where it was"
        " when the same command is given again. accelerate launch splits it over several devices."
        " --metric residual-noise needs no weights and no prompts.",
    )
    parser.add_argument("folder", type=options.path, metavar="DIR", help="images, in subfolders as well")
    parser.add_argument(
        "--prompts",
        type=options.path,
        metavar="FILE",
        help="text with a line for all or a line per image, or a .csv or .json of file and prompt",
    )
    parser.add_argument(
        "--metric", nargs="+", choices=METRICS, default=list(PAPER), metavar="NAME", help=_metric_help()
    )
    parser.add_argument("--out", type=options.path, required=True, metavar="FILE", help="the table, .csv or .json")
    weights = parser.add_argument_group("weights")
    weights.add_argument("--weights", type=options.path, metavar="DIR", help="the folder of the reward files")
    weights.add_argument(
        "--vocabulary", type=options.path, metavar="DIR", help="vocabulary files (default: in --weights)"
    )
    weights.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="default: float32")
    weights.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps, … (default: cpu)")
    weights.add_argument("--batch", type=options.whole("batch", 1, 1024), default=16, metavar="N", help="default: 16")
    combined = parser.add_argument_group("composite")
    combined.add_argument("--per-prompt", action="store_true", help="standardise among the images of each prompt")
    combined.add_argument(
        "--ddof",
        type=int,
        choices=(0, 1),
        default=0,
        help="delta degrees of freedom of the standard deviation (default: 0)",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """The command. What can be checked without a model is checked before one is loaded."""
    from ..rewards.folder import list_items
    from ..rewards.table import Table

    metrics = list(dict.fromkeys(args.metric))
    _check(args, metrics)
    items = list_items(args.folder, args.prompts)
    table = Table(args.out, items)
    for name in metrics:
        if made := _weights(name, args):
            table.claim(name, made)
    openers = {name: _opener(name, args) for name in metrics if table.missing(name)}
    processes = join_processes()
    _save(table, processes)  # says now, not after an hour, that the folder cannot be written
    _score(table, items, openers, args, processes)
    if processes.is_main:
        combined = _combine(table, items, metrics, args) if len(metrics) > 1 else None
        _report(table, metrics, combined)


def _metric_help() -> str:
    return f"one or more of {', '.join(METRICS)} (default: the paper's {', '.join(PAPER)})"


def _check(args: argparse.Namespace, metrics: Sequence[str]) -> None:
    needs_prompts = [name for name in metrics if name != RESIDUAL_NOISE]
    if needs_prompts and args.prompts is None:
        raise RewardError(f"{needs_prompts[0]} judges images against prompts; give --prompts FILE.")
    needs_weights = [name for name in metrics if name in CATALOGUE]
    if needs_weights and args.weights is None:
        raise RewardError(f"{CATALOGUE[needs_weights[0]].title} needs its weights; give their folder with --weights.")


def _weights(name: str, args: argparse.Namespace) -> str:
    """What the metric's scores are computed with, which looks for its files; "" where it has none."""
    if name == RESIDUAL_NOISE:
        return ""
    if name == EMBEDDED_JUDGE:
        file = EMBEDDED_FOLDER / JUDGE_FILE
        return digest_files(file) if file.is_file() else ""  # loading it says what is missing
    return fingerprint(name, args.weights, words=args.vocabulary, dtype=args.dtype)


def _opener(name: str, args: argparse.Namespace) -> Callable[[], Metric]:
    """How a metric is loaded."""
    if name == RESIDUAL_NOISE:
        return _open_noise
    if name == EMBEDDED_JUDGE:
        return _open_judge
    return partial(
        open_metric,
        name,
        args.weights,
        words=args.vocabulary,
        device=process_device() or args.device,
        dtype=args.dtype,
    )


def _open_noise() -> Metric:
    from ..rewards.scoring import ResidualNoise

    return ResidualNoise()


def _open_judge() -> Metric:
    """The judge of the embedded world: the mean probability that the image shows what its caption asks for."""
    from ..embedded.judge import Judge, JudgeMetric

    return JudgeMetric(Judge.load(EMBEDDED_FOLDER))


def _score(
    table: Table,
    items: Sequence[Item],
    openers: Mapping[str, Callable[[], Metric]],
    args: argparse.Namespace,
    processes: Processes,
) -> None:
    """Metric after metric; whatever ends it, what was scored is saved."""
    total = sum(len(table.missing(name)) for name in openers)
    with _progress(total, processes.is_main and not args.no_progress) as step:
        try:
            for name, opener in openers.items():
                _score_metric(table, items, name, opener(), args.batch, step, processes)
        finally:
            _save(table, processes)


def _score_metric(
    table: Table,
    items: Sequence[Item],
    name: str,
    metric: Metric,
    batch: int,
    step: Callable[[int], object],
    processes: Processes,
) -> None:
    """Each process judges its share; after every chunk all tables hold what everybody found."""
    from ..rewards.folder import Pictures
    from ..rewards.scoring import score_chunks

    rows = table.missing(name)
    mine = list(processes.share(rows))
    todo = [items[row] for row in mine]
    chunks = score_chunks(name, metric, Pictures(todo), [item.prompt for item in todo], batch)
    saved = time.monotonic()
    for start in range(0, math.ceil(len(rows) / processes.size), batch):
        found = processes.run_everywhere(partial(_next_scores, mine[start : start + batch], chunks))
        for row, value in (pair for part in found for pair in part):
            table.put(name, row, value)
        step(sum(map(len, found)))
        if time.monotonic() - saved > SAVE_SECONDS:
            _save(table, processes)
            saved = time.monotonic()


def _next_scores(rows: Sequence[int], chunks: Iterator[Tensor]) -> list[tuple[int, float]]:
    """The next chunk's scores with their rows; none where this process has no rows left."""
    return list(zip(rows, next(chunks).tolist(), strict=True)) if rows else []


def _save(table: Table, processes: Processes) -> None:
    if processes.is_main:
        table.save()


def _combine(table: Table, items: Sequence[Item], metrics: Sequence[str], args: argparse.Namespace) -> Composite:
    import torch

    from ..rewards.composite import composite
    from ..rewards.table import REWARD

    groups = [item.prompt for item in items] if args.per_prompt else None
    scores = {name: torch.tensor(table.column(name), dtype=torch.float64) for name in metrics}
    combined = composite(scores, groups=groups, ddof=args.ddof)
    for number, value in enumerate(combined.reward.tolist()):
        table.put(REWARD, number, value)
    return combined


def _report(table: Table, metrics: Sequence[str], combined: Composite | None) -> None:
    """Means with their intervals, to the terminal and into a JSON table."""
    import numpy as np

    from ..statistics import bootstrap

    means = {name: bootstrap(np.array(table.column(name))) for name in metrics}
    table.means = {name: {"mean": m.mean, "low": m.low, "high": m.high} for name, m in means.items()}
    saved = table.save()
    print(
        as_text(["metric", "mean", "95 % interval", "images"], [_line(n, m, len(table.rows)) for n, m in means.items()])
    )
    if combined is not None:
        best = table.rows[combined.ranking()[0]]
        print(f"\nHighest R: {best['file']} ({best['R']:+.3f}); R compares the images of this table alone.")
    print(f"\nSaved in {saved}")


def _line(name: str, mean: Interval, count: int) -> list[str]:
    return [name, f"{mean.mean:.4f}", f"{mean.low:.4f} … {mean.high:.4f}", str(count)]


@contextmanager
def _progress(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """A bar over all images of all metrics on stderr, or nothing."""
    if not shown or not total:
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="score", desc="score", file=sys.stderr, dynamic_ncols=True) as bar:
        yield bar.update
