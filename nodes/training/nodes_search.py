"""Search Policy: the library's RL-free search on the host's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from comfy_api.latest import io, ui
from PIL import Image

from ...tpm.drawing.learning import draw_live, draw_report, search_plots
from ...tpm.policies import Curve, retiming_of, save_policy
from ...tpm.training.compare.measure import Measurer
from ...tpm.training.prompts import PromptOrder
from ...tpm.training.search.plan import SearchPlan
from ...tpm.training.search.search import Found, Search
from ...tpm.training.studio import derive
from ..images import page
from ..schema import made_here, schema
from . import inputs
from .inputs import InputError, Live, Setting

FIELDS = ("steps", "bound", "held_out", "generations", "population", "elite", "knots", "seed")
"""Widgets that are fields of `SearchPlan`."""


class SearchPolicy(io.ComfyNode):
    """A curve of D made for one's own model, prompts and rewards, without training."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffSearchPolicy",
            display_name="Search Policy",
            description="Finds a deviation curve for this model, these prompts and these reward models without"
            " training: constants first, then the cross-entropy method over a curve and the synchronous tail, judged on"
            " prompts that the search has not seen. The stop button keeps what was reached: queue again to go on.",
            search_aliases=["search", "optimise", "curve", "cross-entropy", "RL-free", "reward", "asyncdiff", "tpm"],
            inputs=[*inputs.setting_inputs(), *search_inputs(), inputs.latent_input()],
            outputs=inputs.shared_outputs("The best curve"),
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls, name: Any = None, prompts: Any = None, prompt_file: Any = None, rewards: Any = None,
        conditionings: Any = None,
    ) -> bool | str:  # fmt: skip
        """Refuse what cannot be read before anything is queued. (The host always passes growing sockets.)"""
        del rewards, conditionings
        return inputs.refuse(name, prompts, prompt_file)

    @classmethod
    def fingerprint_inputs(cls, **given: Any) -> str:
        """A replaced file of prompts is read again."""
        return inputs.fingerprint(given.get("prompt_file"))

    @classmethod
    def execute(cls, **given: Any) -> io.NodeOutput:
        """Search, or go on; then the images before and after."""
        plan = plan_of(given)
        inputs.check_name(given["name"])
        with inputs.outside_inference_mode():
            setting = inputs.open_setting(given)
            made = search(setting, plan, given["name"].strip(), given["render_batch"], given["resume"])
        inputs.show_last(made.report)
        shown = ui.PreviewImage(made.report, cls=cls)
        return io.NodeOutput(made.policy, made.report, *made.images, made.text(), ui=shown)


def search_inputs() -> list[Any]:
    """How hard it is searched."""
    return [
        io.Float.Input(
            "bound", default=0.5, min=0.05, max=1.0, step=0.05, tooltip="Largest deviation in steps; 1 is lifted."
        ),
        io.Int.Input("prompts_per_candidate", default=16, min=2, max=1024, tooltip="Every candidate draws so many."),
        io.Int.Input(
            "held_out", default=32, min=2, max=4096,
            tooltip="The last n prompts are kept for the final comparison, at most half of them.",
        ),
        io.Int.Input("generations", default=6, min=0, max=1000, tooltip="0: constants alone."),
        io.Int.Input("population", default=12, min=2, max=256, tooltip="Candidates a generation."),
        io.Int.Input("elite", default=4, min=1, max=128, tooltip="The best, of which the next generation is made."),
        io.Int.Input("most_tail", default=2, min=0, max=20, tooltip="Tries tail_sync from 0 to this."),
        io.Boolean.Input("residual_noise", default=False, tooltip="A further metric without weights: less is better."),
        io.Int.Input(
            "seed", default=42, min=0, max=2**53, control_after_generate=False,
            tooltip="Of prompts, noises and candidates."
        ),
        io.Boolean.Input(
            "resume", default=True, tooltip="Go on with the search of this name. Off: begin anew, and lose the old one."
        ),
        made_here(io.Int.Input, "knots", default=4, min=1, max=16, advanced=True, tooltip="Points of the curve."),
        made_here(
            io.Int.Input, "render_batch", default=4, min=1, max=256, advanced=True,
            tooltip="Most images in one run of the model."
        ),
    ]  # fmt: skip


def plan_of(given: Mapping[str, Any]) -> SearchPlan:
    """The plan of the widgets. Raises SearchError."""
    chosen = {name: given[name] for name in FIELDS}
    return SearchPlan(prompts=given["prompts_per_candidate"], tails=tuple(range(given["most_tail"] + 1)), **chosen)


def split(prompts: Sequence[str], held_out: int) -> tuple[Sequence[str], Sequence[str]]:
    """Prompts to search on, and the last ones, at most half of them, to judge on. Raises InputError."""
    cut = len(prompts) - min(held_out, len(prompts) // 2)
    if len(prompts) < 2 * 2:
        raise InputError(
            f"{len(prompts)} prompts are too few to search on some and to judge on others; give four or more."
        )
    return prompts[:cut], prompts[cut:]


@dataclass
class Made:
    """What a search gave."""

    name: str
    policy: Curve
    found: Found
    report: Any  # IMAGE of the charts
    images: tuple[Any, Any]

    def text(self) -> str:
        """What was reached, in lines."""
        document, applied = self.found.report, retiming_of(self.policy)
        lines = [
            f"{document['stopped'][0].upper()}{document['stopped'][1:]}.",
            "Gain on held-out prompts, in standard deviations:",
        ]
        lines += [f"  {row['name']}: {row['gain']:+.3f} ± {row['error']:.3f}" for row in document["held_out"]]
        better = document["winner"]["over_constant"]
        lines.append(
            f"The curve over the best constant: {better['mean']:+.3f} [{better['low']:+.3f}, {better['high']:+.3f}]"
            " (95 %)."
        )
        saved = sum(document["saved_evaluations"].values())
        lines += [f"{saved:,} evaluations were taken from runs that start alike."] if saved else []
        lines.append(f"Saved as models/tpm/{self.name}.json; Load Policy lists it after a refresh (key R).")
        if applied.tail_sync:
            lines.append(f"Found with tail_sync = {applied.tail_sync}; set it on the sampler as well.")
        return "\n".join(lines)


def search(setting: Setting, plan: SearchPlan, name: str, batch: int, resume: bool) -> Made:
    """Search, write models/tpm/<name>.json, and compare. Raises ResumeError for changed settings."""
    prompts, held_out = split(setting.prompts, plan.held_out)
    watch = Watch(name)
    measurer = Measurer(setting.studio, setting.scorer, batch, on_images=watch.on_images)
    order = PromptOrder(prompts, plan.seed)
    folder = inputs.run_folder(name, "search")
    watch.search = Search(measurer, order, held_out, plan, folder, setting.scorer.versions())
    found = watch.search.run(resume)
    policy = replace(found.curve, name=name)
    save_policy(inputs.policy_path(name, ".json"), policy)
    seeds = [derive(plan.seed, "shown", number) for number in range(len(held_out))]
    images = inputs.before_and_after(setting.studio, held_out, seeds, policy, retiming_of(policy), plan.steps)
    how = (
        f"{len(watch.search.generations)} generations of {plan.population} · {plan.steps} steps · bound {plan.bound:g}"
    )
    report = page(lambda: draw_report(watch.plots(), f"Search for {name}", how))
    return Made(name, policy, found, report, images)


class Watch:
    """Counts the images and shows what was found so far."""

    search: Search

    def __init__(self, name: str) -> None:
        self._name, self._done = name, 0
        self._live: Live | None = None

    def on_images(self, count: int) -> None:
        """So many images more are done; raises where the stop button was pressed."""
        if self._live is None:
            self._live = Live(self.search.images(), self._draw)
            self._done = self._earlier()
        self._done += count
        self._live.show(self._done)

    def plots(self) -> Sequence[Any]:
        """What was found so far, as charts."""
        constants = [{"stage": "constants", **row} for row in self.search.constants]
        generations = [{"stage": "generation", **row} for row in self.search.generations]
        return search_plots([*constants, *generations], self.search.knots)

    def _earlier(self) -> int:
        """Images of the stages that an earlier run has done."""
        plan, search = self.search.plan, self.search
        first = search.images_of_constants() if search.constants else 0
        return first + len(search.generations) * (plan.population + 1) * plan.prompts

    def _draw(self) -> Image.Image | None:
        plots = self.plots()
        return draw_live(plots, f"{self._name}, generation {len(self.search.generations)}") if plots else None


NODES = [SearchPolicy]
