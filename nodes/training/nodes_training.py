"""Train TPM (GRPO): the library's trainer on the host's model, under the host's progress bar and stop button."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comfy_api.latest import io, ui
from PIL import Image

from ...tpm.drawing.learning import draw_live, draw_report, training_plots
from ...tpm.policies import Learned
from ...tpm.policies.checkpoint import load_tpm, save_tpm
from ...tpm.training.grpo.journal import read_journal
from ...tpm.training.grpo.recipe import Recipe
from ...tpm.training.grpo.report import write_report
from ...tpm.training.grpo.trainer import JOURNAL, Outcome, Trainer
from ...tpm.training.prompts import PromptOrder
from ..images import page
from ..schema import made_here, schema
from . import inputs
from .inputs import Live, Setting

SIZES: dict[str, dict[str, int]] = {"paper (3.3 M)": {}, "small (0.3 M)": {"width": 64, "layers": 2}}
SAVE_SECONDS = 20.0
KL_LIMIT = 0.03
FIELDS = (
    "iterations", "steps", "group", "prompts_per_iteration", "minibatch", "render_batch", "learning_rate", "bound",
    "tail_sync", "start", "null_reward", "seed", "probe_every", "probes", "drift_before", "kl_limit",
)  # fmt: skip
"""Widgets that are fields of `Recipe`."""


class TrainTPM(io.ComfyNode):
    """A TPM made for one's own model, prompts and rewards."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffTrainTPM",
            display_name="Train TPM (GRPO)",
            description="Trains a timestep prediction module for this model, these prompts and these reward models by"
            " group-relative policy optimisation. The model is only sampled. The stop button keeps what was reached:"
            " queue again with the same name and settings to go on. Try Search Policy first, which is far cheaper.",
            search_aliases=["tpm", "grpo", "train", "reinforcement learning", "reward", "asyncdiff", "timestep"],
            inputs=[
                *inputs.setting_inputs(),
                *training_inputs(),
                *advanced_inputs(),
                inputs.latent_input(),
                limit_input(),
            ],
            outputs=inputs.shared_outputs("The trained TPM"),
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
        """Train, or go on; then the images before and after."""
        recipe = recipe_of(given)
        inputs.check_name(given["name"])
        with inputs.outside_inference_mode():
            made = train(inputs.open_setting(given), recipe, given["name"].strip(), given["resume"])
        report = page(made.report)
        inputs.show_last(report)
        return io.NodeOutput(made.policy, report, *made.images, made.text(), ui=ui.PreviewImage(report, cls=cls))


def training_inputs() -> list[Any]:
    """How it is trained."""
    return [
        io.Int.Input("iterations", default=1500, min=1, max=1000000, tooltip="May be raised to go on with a run."),
        io.Int.Input("group", default=16, min=2, max=256, tooltip="Images of one prompt, compared with each other."),
        io.Int.Input(
            "noises", default=4, min=0, max=256,
            tooltip="Different start noises in a group, a divisor of it. Fewer show the effect of the timesteps more"
            " clearly; 0: one for each image, as in the paper.",
        ),
        io.Int.Input("minibatch", default=4, min=1, max=256, tooltip="Images a step of the optimiser."),
        io.Float.Input(
            "learning_rate", default=2e-5, min=1e-7, max=0.1, step=1e-6, round=1e-7,
            tooltip="Of AdamW. 1e-5 (SD3.5) and 2e-5 (Flux) in the paper, for 4,000 iterations.",
        ),
        io.Float.Input(
            "bound", default=0.5, min=0.05, max=1.0, step=0.05, tooltip="Largest deviation in steps; 1 is lifted."
        ),
        io.Int.Input(
            "tail_sync", default=1, min=0, max=100, tooltip="The last n steps stay synchronous: less leftover noise."
        ),
        io.Float.Input(
            "start", default=0.0, min=-0.95, max=0.95, step=0.01,
            tooltip="Deviation that the untrained TPM answers everywhere: the best constant that Search Policy found.",
        ),
        io.Combo.Input("tpm_size", options=list(SIZES), tooltip="small is for the embedded pipeline and for trials."),
        io.Boolean.Input("residual_noise", default=False, tooltip="A further metric without weights: less is better."),
        io.Int.Input(
            "seed", default=42, min=0, max=2**53, control_after_generate=False,
            tooltip="Of prompts, noises and actions."
        ),
        io.Boolean.Input(
            "resume", default=True, tooltip="Go on with the run of this name. Off: begin anew, and lose the old run."
        ),
    ]  # fmt: skip


def advanced_inputs() -> list[Any]:
    """What is rarely changed."""
    return [
        made_here(
            io.Int.Input, "prompts_per_iteration", default=1, min=1, max=64, advanced=True,
            tooltip="Groups an iteration learns from."
        ),
        made_here(
            io.Int.Input, "render_batch", default=4, min=1, max=256, advanced=True,
            tooltip="Most images in one run of the model."
        ),
        made_here(
            io.Int.Input, "probe_every", default=25, min=0, max=100000, advanced=True,
            tooltip="Iterations between two comparisons with the synchronous sampler; 0: never.",
        ),
        made_here(
            io.Int.Input, "probes", default=8, min=1, max=512, advanced=True, tooltip="Prompts of such a comparison."
        ),
        made_here(
            io.Int.Input, "drift_before", default=500, min=0, max=100000, advanced=True,
            tooltip="Stop if the deviation reaches its bound before this iteration, a sign of a learning rate that is"
            " too high; 0: never.",
        ),
        made_here(
            io.Boolean.Input, "null_reward", default=False, advanced=True,
            tooltip="The control: random numbers in place of the rewards. What it learns is chance.",
        ),
    ]  # fmt: skip


def limit_input() -> Any:
    """How far one iteration may move the policy."""
    return made_here(
        io.Float.Input, "kl_limit", optional=True, default=KL_LIMIT, min=0.0, max=10.0, step=0.01, round=0.001,
        advanced=True,
        tooltip="Largest move of the policy in one iteration (KL divergence, nats): beyond it the update ends, and the"
        " learning rate falls for a while. Keeps training stable; 0: no limit, as in the paper.",
    )  # fmt: skip


def recipe_of(given: Mapping[str, Any]) -> Recipe:
    """The recipe of the widgets. Raises RecipeError."""
    chosen = {"kl_limit": KL_LIMIT, **given}  # which prompts of release 0.1 do not have
    chosen = {name: chosen[name] for name in FIELDS}
    return Recipe(noises=given["noises"] or None, tpm=SIZES[given["tpm_size"]], **chosen)


@dataclass
class Made:
    """What a training gave."""

    name: str
    recipe: Recipe
    outcome: Outcome
    policy: Learned
    images: tuple[Any, Any]
    records: list[dict[str, Any]] = field(default_factory=list)

    def report(self) -> Image.Image:
        images = self.recipe.group * self.recipe.prompts_per_iteration
        how = f"{self.outcome.iterations} iterations of {images} images · {self.recipe.steps} steps"
        how += f" · bound {self.recipe.bound:g}" + (" · random rewards" if self.recipe.null_reward else "")
        return draw_report(training_plots(self.records), f"Training of {self.name}", how)

    def text(self) -> str:
        """What was reached, in lines."""
        lines = [f"{self.outcome.iterations} of {self.recipe.iterations} iterations."]
        if self.outcome.reason:
            lines.append(f"Stopped early. {self.outcome.reason}")
        if self.policy.card and self.policy.card.metrics:
            probe = self.policy.card.metrics
            lines.append("On the probes, and the difference to the synchronous sampler:")
            lines += [
                f"  {name}: {value:.4g} ({probe['paired'][name]:+.3g})" for name, value in probe["metrics"].items()
            ]
        lines.append(f"Saved as models/tpm/{self.name}.safetensors; Load Policy lists it after a refresh (key R).")
        if self.recipe.tail_sync:
            lines.append(f"Trained with tail_sync = {self.recipe.tail_sync}; set it on the sampler as well.")
        return "\n".join(lines)


def train(setting: Setting, recipe: Recipe, name: str, resume: bool) -> Made:
    """Train, write models/tpm/<name>.safetensors, and compare. Raises ResumeError for changed settings."""
    folder = inputs.run_folder(name)
    watch = Watch(name, recipe.iterations, folder / JOURNAL)
    prompts = PromptOrder(setting.prompts, recipe.seed)
    trainer = Trainer(
        setting.studio, setting.scorer, prompts, recipe, folder, metrics=setting.scorer.versions(),
        on_record=watch.on_record, save_seconds=SAVE_SECONDS,
    )  # fmt: skip
    outcome = trainer.run(resume)
    assert outcome.tpm is not None
    tpm, card = load_tpm(outcome.tpm)
    policy = Learned(tpm, card=replace(card, name=name))
    assert policy.card is not None
    save_tpm(inputs.policy_path(name, ".safetensors"), tpm, policy.card)
    write_report(folder)
    seeds = [recipe.seed_of("probe", number) for number in range(len(trainer.probe.prompts))]
    images = inputs.before_and_after(
        setting.studio, trainer.probe.prompts, seeds, policy, recipe.retiming, recipe.steps
    )
    return Made(name, recipe, outcome, policy, images, read_journal(folder / JOURNAL))


class Watch:
    """Keeps the records and shows them."""

    def __init__(self, name: str, iterations: int, journal: Any) -> None:
        self._name, self._journal = name, journal
        self._records: list[dict[str, Any]] = []
        self._live = Live(iterations, self._draw)

    def on_record(self, record: dict[str, Any]) -> None:
        """An iteration is over; raises where the stop button was pressed."""
        self._records = [*self._records, record] if self._records else read_journal(self._journal)
        self._live.show(record["iteration"])

    def _draw(self) -> Image.Image:
        return draw_live(training_plots(self._records), f"{self._name}, iteration {self._records[-1]['iteration']}")


NODES = [TrainTPM]
