"""Calibrate Policy: the library's calibration by spectrum on the host's model. Experimental."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from comfy_api.latest import io, ui
from PIL import Image

from ...tpm.errors import HostError
from ...tpm.policies import Curve, save_policy
from ...tpm.retiming.solvers import OWN_STEPS
from ...tpm.training.calibrate.calibrate import STATE, Calibrated, Calibration, CalibrationPlan, check_shape
from ...tpm.training.calibrate.chart import calibration_chart
from ...tpm.training.calibrate.words import found_and_cost, warning
from ...tpm.training.prompts import PromptOrder
from .. import sockets
from ..images import page
from ..latents import why_no_plane
from ..schema import refusal, schema
from . import inputs
from .inputs import InputError, Live
from .prompt_cache import Conditioning, PromptCache
from .sampler import HostSampler, Sampling
from .starts import Start

LEAST_PROMPTS = 4
SPECTRUM = "A calibration compares the spectrum of pictures"
INSTEAD = "For sound or a shape compare Constant Deviation or Deviation Curve at several γ yourself."


class CalibratePolicy(io.ComfyNode):
    """Two numbers for one's own model and prompts, without rewards and without a decoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffCalibratePolicy",
            display_name="Calibrate Policy",
            description="Experimental: makes a policy for this model and sampler in minutes, without reward models and"
            " without decoding. It samples some prompts in many steps, the teacher, and chooses how far the timestep is"
            " moved so that few steps give latents that vary as much, from slow to fast changes. At high guidance and"
            " with some samplers it does not help: compare the result with strength 0. The stop button keeps what was"
            " reached: queue again to go on.",
            search_aliases=[
                "calibrate", "spectrum", "few steps", "without rewards", "more detail", "match many steps", "asyncdiff",
                "policy", "tpm",
            ],
            inputs=calibration_inputs(),
            outputs=[
                sockets.Policy.Output(
                    "policy", tooltip="What was found, for Asynchronous KSampler; Load Policy lists the file."
                ),
                io.Image.Output(
                    "chart", tooltip="How much the latents vary before, after, and in the many steps of the teacher."
                ),
                io.String.Output("text", tooltip="What was found, what it cost, and how to use the file."),
            ],
            is_output_node=True,
            is_experimental=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, name: Any = None, sampler_name: Any = None, prompt_file: Any = None, conditionings: Any = None
    ) -> bool | str:
        """Refuse what cannot be read before anything is queued. (The host always passes growing sockets.)"""
        del conditionings
        answers = (
            refusal(inputs.check_name, name),
            refusal(check_sampler, sampler_name),
            refusal(inputs.prompts_of, "-", prompt_file),
        )
        return next((answer for answer in answers if answer is not True), True)

    @classmethod
    def fingerprint_inputs(cls, **given: Any) -> str:
        """A replaced file of prompts is read again."""
        return inputs.fingerprint(given.get("prompt_file"))

    @classmethod
    def execute(cls, **given: Any) -> io.NodeOutput:
        """Calibrate, or go on."""
        name = inputs.check_name(given["name"])
        check_sampler(given["sampler_name"])
        with inputs.outside_inference_mode():
            made = calibrate(name, *open_calibration(given), given["resume"])
        inputs.show_last(made.chart)
        return io.NodeOutput(made.policy, made.chart, made.text(), ui=ui.PreviewImage(made.chart, cls=cls))


def calibration_inputs() -> list[Any]:
    """Sockets first, then what is sampled and how."""
    return [
        inputs.model_input(),
        inputs.clip_input(),
        *inputs.growing(
            "conditioning", io.Conditioning, inputs.MOST_CONDITIONINGS,
            "In place of a CLIP and of prompts: one for each prompt, or batches of them; four prompts or more in all.",
        ),
        inputs.negative_input(),
        io.Latent.Input(
            "latent_image",
            tooltip="An empty latent of the size that you sample, such as an image's or a video's. Its first entry"
            " counts.",
        ),
        io.String.Input(
            "name", default="calibrated", tooltip="Of the file in models/tpm, and of the calibration that goes on."
        ),
        *inputs.prompt_inputs(),
        io.Int.Input(
            "steps", default=8, min=3, max=200,
            tooltip="Of the sampler that gets the policy; the policy is made for this number.",
        ),
        io.Int.Input(
            "teacher_steps", default=0, min=0, max=1000,
            tooltip="Steps of the run that is matched, at least twice as many as steps; 0: 8 times as many. More make a"
            " stronger policy.",
        ),
        *inputs.sampler_inputs(),
        io.Int.Input(
            "count", default=16, min=LEAST_PROMPTS, max=4096,
            tooltip="Most prompts that are sampled, drawn by seed. 8 to 16 are usual.",
        ),
        io.Int.Input(
            "seed", default=42, min=0, max=2**53, control_after_generate=False, tooltip="Of prompts and noises."
        ),
        io.Boolean.Input(
            "resume", default=True,
            tooltip="Go on with the calibration of this name. Off: begin anew, and lose the old one.",
        ),
        io.Int.Input(
            "render_batch", default=8, min=1, max=256, advanced=True, tooltip="Most latents in one run of the model."
        ),
    ]  # fmt: skip


def check_sampler(name: str) -> None:
    """Raise InputError for a sampler that leaves the grid of σ, for which there is no D."""
    if name in OWN_STEPS:
        raise InputError(
            f"{name} chooses its own steps, so that no policy can be made for a number of them; choose euler or another"
            " sampler that walks down the scheduler's noise levels."
        )


def open_calibration(given: Mapping[str, Any]) -> tuple[HostSampler, list[str], CalibrationPlan]:
    """The sampler, the prompts and the plan of the widgets. What cannot be judged is a sentence, before anything runs.

    Raises InputError, HostError, CalibrationError, PromptFileError.
    """
    check_can_be_judged(given["model"], given["latent_image"])
    prompts, texts = texts_of(given)
    if len(prompts) < LEAST_PROMPTS:
        raise InputError(
            f"A calibration needs at least {LEAST_PROMPTS} prompts that differ, got {len(prompts)}; write more lines,"
            " or connect more conditionings."
        )
    plan = plan_of(given, len(prompts))
    settings = {name: given[name] for name in ("cfg", "sampler_name", "scheduler")}
    start = Start.of(given["model"], given["latent_image"])
    check_shape(start.shape)
    sampling = Sampling(**settings, latent=given["latent_image"])
    return HostSampler(given["model"], texts, sampling, start), prompts, plan


def check_can_be_judged(model: Any, latent: Mapping[str, Any]) -> None:
    """Raise HostError for models of sound and of shapes."""
    reason = why_no_plane(model, latent["samples"])
    if reason:
        raise HostError(f"{SPECTRUM}, and {reason}. {INSTEAD}")


def texts_of(given: Mapping[str, Any]) -> tuple[list[str], PromptCache]:
    """The names of the prompts, and their conditionings: those that are connected, or encoded by the CLIP."""
    conditionings = [row for entry in inputs.connected(given, "conditioning") for row in rows_of(entry)]
    if conditionings:
        names = [f"conditioning {number}" for number in range(1, len(conditionings) + 1)]
        return names, PromptCache.given(names, conditionings, given.get("negative"), given["cfg"])
    prompts = list(dict.fromkeys(inputs.prompts_of(given["prompts"], given["prompt_file"])))
    if given.get("clip") is None:
        raise InputError("Connect a CLIP to encode the prompts, or conditionings in place of them.")
    return prompts, PromptCache.from_clip(given["clip"], prompts, given.get("negative"), given["negative_prompt"])


def rows_of(conditioning: Conditioning) -> list[Conditioning]:
    """A CONDITIONING of a batch of prompts as one for each of them; another one as it is."""
    if len(conditioning) != 1 or conditioning[0][0] is None or len(conditioning[0][0]) == 1:
        return [conditioning]
    context, extra = conditioning[0]
    pooled, count = extra.get("pooled_output"), len(context)
    own = [{} if pooled is None else {"pooled_output": _row(pooled, n, count)} for n in range(count)]
    return [[[context[n : n + 1], {**extra, **own[n]}]] for n in range(count)]


def _row(values: Any, number: int, count: int) -> Any:
    return values[number : number + 1] if len(values) == count else values


def plan_of(given: Mapping[str, Any], prompts: int) -> CalibrationPlan:
    """The plan of the widgets. Raises CalibrationError."""
    count = min(given["count"], prompts)
    return CalibrationPlan(given["steps"], given["teacher_steps"] or None, count, given["render_batch"], given["seed"])


@dataclass
class Made:
    """What a calibration gave."""

    name: str
    policy: Curve
    found: Calibrated
    chart: Any  # IMAGE
    saved: int  # evaluations that were not made, because runs that start alike share their first one

    def text(self) -> str:
        """What was found, in lines."""
        report = self.found.report
        lines = found_and_cost(report)
        if self.saved:
            lines.append(f"{self.saved:,} of these evaluations were taken from runs that start alike.")
        lines += filter(None, [warning(report)])
        lines.append(f"Saved as models/tpm/{self.name}.json; Load Policy lists it after a refresh (key R).")
        return "\n".join(lines)


def calibrate(name: str, sampler: HostSampler, prompts: Sequence[str], plan: CalibrationPlan, resume: bool) -> Made:
    """Calibrate, and write models/tpm/<name>.json. Raises CalibrationError, and ResumeError for changed settings."""
    folder, path = inputs.run_folder(name, "calibrate"), inputs.policy_path(name, ".json")
    if path.exists() and not (folder / STATE).exists():
        raise InputError(
            f"There is a policy {name}.json in models/tpm already that this node did not make; choose another name."
        )
    calibration = Calibration(sampler, PromptOrder(prompts, plan.seed), plan, folder)
    watch = Watch(calibration)
    calibration.on_evaluations, sampler.on_step = watch.on_evaluations, watch.on_step
    found = calibration.run(resume)
    watch.finish()
    policy = replace(found.policy, name=name)
    save_policy(path, policy)
    return Made(name, policy, found, page(lambda: calibration_chart(found.report)), sampler.saved_evaluations)


class Watch:
    """The progress bar in evaluations, and the chart of what was found so far."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration, self._most = calibration, calibration.evaluations()
        self._inside = 0  # steps of the runs whose latents are not kept yet, times their samples
        self._live = Live(self._most, self._draw)

    def on_step(self, samples: int) -> None:
        """So many samples have made a step; raises where the stop button was pressed."""
        self._inside += samples
        self._live.show(min(self._calibration.made() + self._inside, self._most))

    def on_evaluations(self, _: int) -> None:
        """A batch is done and kept."""
        self._inside = 0
        self._live.show(self._calibration.made())

    def finish(self) -> None:
        """Nothing more is to come, however few rounds it took."""
        self._live.show(self._most)

    def _draw(self) -> Image.Image | None:
        return calibration_chart(self._calibration.report()) if self._calibration.path else None


NODES = [CalibratePolicy]
