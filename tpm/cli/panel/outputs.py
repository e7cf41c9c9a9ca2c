"""What ``panel`` leaves behind: pictures, traces and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ...drawing import Cell, Row, draw_panel, retiming_chart, to_pil
from ...drawing.png import save_png
from ...files import write_json
from ...numbers import mean_deviation, strength
from ...retiming.solvers import EULER
from ..shared.policies import short_description
from ..shared.tables import write_csv
from .measures import Measure, Summary, csv_rows, image_rows, known, summarise, synchronous_column
from .sweep import Column, Job, Settings, batches

if TYPE_CHECKING:
    from ...policies import Policy
    from ..shared.models import Model

FORMAT, VERSION = "asyncdiff-panel", 1
MEANINGS = {
    "attributes": "attributes: share of what the prompt asks for that the judge finds in the image",
    "detail": "detail: dots per 1,000 background pixels",
    "noise": "noise: residual noise, standard deviation in 8-bit levels",
}


def save_all(
    out: Path, model: Model, policy: Policy, jobs: Sequence[Job], columns: Sequence[Column], settings: Settings
) -> list[Path]:
    """Write everything; returns the files a person opens first."""
    names = [[_image_name(number, job, column.gamma) for number, job in enumerate(jobs)] for column in columns]
    for column, files in zip(columns, names, strict=True):
        for image, name in zip(column.images, files, strict=True):
            save_png(out / name, to_pil(image))
    write_csv(out / "images.csv", image_rows(columns, jobs, names))
    saved = [save_png(out / "panel.png", panel_picture(model, policy, jobs, columns, settings))]
    if columns[0].traces:
        saved.append(save_png(out / "chart.png", chart_picture(model, policy, columns, settings)))
    saved.append(write_csv(out / "table.csv", csv_rows(columns)))
    saved.append(write_json(out / "trace.json", trace_document(model, policy, jobs, columns, settings)))
    for column in columns:
        _save_traces(out / "traces", column)
    return saved


def panel_picture(
    model: Model, policy: Policy, jobs: Sequence[Job], columns: Sequence[Column], settings: Settings
) -> Image.Image:
    """The labelled grid; with several rows also their means and differences."""
    one_prompt = len({job.prompt for job in jobs}) == 1
    rows = [_row(number, job, columns, one_prompt) for number, job in enumerate(jobs)]
    measures = known(columns[0])
    if len(jobs) > 1 and measures:
        rows.append(_mean_row(columns, len(jobs)))
    described = describe(model, policy, settings)
    return draw_panel(
        rows,
        [strength(column.gamma) for column in columns],
        title=f"“{jobs[0].prompt}”" if one_prompt and jobs[0].prompt else "The same noise at several strengths",
        subtitle=described,
        column_notes=["synchronous" if column.gamma == 0 else _mean_d(column) for column in columns],
        footer=_legend(measures, len(jobs) > 1 and synchronous_column(columns) is not None),
    )


def chart_picture(model: Model, policy: Policy, columns: Sequence[Column], settings: Settings) -> Image.Image:
    """σ → t* of every column; a band where the rows differ."""
    sigmas = columns[0].traces[0].sigmas[:-1]
    runs = {strength(column.gamma): _t_star(column) for column in columns}
    return retiming_chart(sigmas, runs, title="What the denoiser is told", subtitle=describe(model, policy, settings))


def trace_document(
    model: Model, policy: Policy, jobs: Sequence[Job], columns: Sequence[Column], settings: Settings
) -> dict[str, Any]:
    """Everything that was asked for and decided, per γ and batch."""
    parts = list(batches(range(len(jobs)), settings.batch))
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": model.name,
        "steps": settings.steps,
        "cfg": settings.cfg,
        "grid": settings.grid,
        "solver": settings.solver,
        "negative": settings.negative,
        "policy": policy.to_dict(),
        "rows": [{"prompt": job.prompt, "seed": job.seed} for job in jobs],
        "runs": [
            {"gamma": column.gamma, "rows": list(part), "trace": trace.to_dict()}
            for column in columns
            for part, trace in zip(parts, column.traces, strict=False)
        ],
    }


def describe(model: Model, policy: Policy, settings: Settings) -> str:
    """Model, steps, cfg and policy on one line."""
    parts = [model.name, f"{settings.steps} steps", f"cfg {settings.cfg:g}", f"{settings.grid} grid"]
    parts += [] if settings.solver == EULER else [settings.solver]
    parts.append(f"policy {short_description(policy)}")
    applied = settings.retiming
    if applied.bound is not None:
        parts.append(f"applied with bound {applied.bound:g}")
    if applied.tail_sync:
        parts.append(f"last {applied.tail_sync} synchronous")
    if applied.velocity_coupling:
        parts.append(f"p = {applied.velocity_coupling:g}")
    if applied.within_interval:
        parts.append("within interval")
    return " · ".join(parts)


def _row(number: int, job: Job, columns: Sequence[Column], one_prompt: bool) -> Row:
    cells = [
        Cell(
            to_pil(column.images[number]),
            [(m.key, f"{m.show(float(column.scores[m.key][number]))} {m.unit}") for m in known(column)],
        )
        for column in columns
    ]
    seed = f"seed {job.seed}"
    return Row(seed, cells) if one_prompt else Row(job.prompt or "(empty prompt)", cells, detail=seed)


def _mean_row(columns: Sequence[Column], count: int) -> Row:
    reference = synchronous_column(columns)
    cells = [Cell(None, [_shown(summary) for summary in summarise(column, reference)]) for column in columns]
    return Row(f"mean of {count}", cells, detail="difference to strength 0" if reference else "")


def _shown(summary: Summary) -> tuple[str, str]:
    text = summary.show()
    return summary.measure.key, f"{text} {summary.measure.unit}" if summary.difference is None else text


def _mean_d(column: Column) -> str:
    return mean_deviation(column.mean_deviation())


def _legend(measures: Sequence[Measure], differences: bool) -> str:
    parts = [MEANINGS[measure.key] for measure in measures]
    if differences and parts:
        parts.append(
            "differences to strength 0 are paired by seed, in brackets their 95 % bootstrap interval over the rows"
        )
    text = ". ".join(part[0].upper() + part[1:] for part in parts)
    return f"{text}." if text else ""


def _t_star(column: Column) -> list[list[float]]:
    """t* per step, the values of all batches together (one value where no row differs)."""
    steps = zip(*(trace.t_star for trace in column.traces), strict=True)
    merged = [[v for entry in step for v in (entry if isinstance(entry, list) else [entry])] for step in steps]
    alike = all(max(values) == min(values) for values in merged)
    return [values[:1] for values in merged] if alike else merged


def _save_traces(folder: Path, column: Column) -> None:
    """One file per run, each of which --policy can replay."""
    for number, trace in enumerate(column.traces):
        part = f"-part{number + 1}" if len(column.traces) > 1 else ""
        trace.save(folder / f"gamma-{column.gamma:g}{part}.json")


def _image_name(number: int, job: Job, gamma: float) -> str:
    return f"images/row{number + 1:02d}-seed{job.seed}-gamma{gamma:g}.png"
