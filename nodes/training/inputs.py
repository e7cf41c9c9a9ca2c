"""What Train TPM and Search Policy share: inputs, the setting made of them, where files go, and the live chart."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ...tpm.drawing import to_pil
from ...tpm.errors import AsyncDiffError
from ...tpm.policies import Policy
from ...tpm.prompt_files import PromptFileError, read_prompts
from ...tpm.retiming.settings import Retiming
from ...tpm.training.studio import still_images
from .. import sockets
from ..images import drawn
from ..retiming.policy_names import RUNS
from ..schema import refusal
from .prompt_cache import PromptCache
from .sampler import Sampling
from .scorer import HostScorer
from .studio import HostStudio

MOST_MODELS, MOST_CONDITIONINGS, FIXED_SOCKETS = 8, 50, 8
SHOWN = 4  # images before and after
QUIET, SHARE = 2.0, 0.03  # seconds between two drawings, and the part of the time that they may take
PREVIEW_SIDE = 1024
_NAME = re.compile(r"[\w][\w .+-]*")


class InputError(AsyncDiffError):
    """A training or a search cannot be set up."""


# ---------------------------------------------------------------------------------------------------------- inputs


def setting_inputs() -> list[Any]:
    """Sockets first, then who is judged on what, then how it is sampled."""
    return [
        model_input(),
        io.Vae.Input("vae", tooltip="Decodes the images that are judged."),
        clip_input(),
        *growing("reward", sockets.RewardModel, MOST_MODELS, "Load Reward Model, once for each metric that judges."),
        *growing(
            "conditioning", io.Conditioning, MOST_CONDITIONINGS,
            "In place of a CLIP: one for each line of prompts, in their order, such as Flux with a guidance.",
        ),
        negative_input(),
        io.String.Input("name", default="my-tpm", tooltip="Of the file in models/tpm, and of the run that goes on."),
        *prompt_inputs(),
        io.Int.Input("steps", default=15, min=2, max=200, tooltip="Of the sampler; the policy is made for this grid."),
        *sampler_inputs(),
        io.Int.Input("width", default=512, min=64, max=4096, step=16, tooltip="Of the images, in pixels."),
        io.Int.Input("height", default=512, min=64, max=4096, step=16, tooltip="Of the images, in pixels."),
    ]  # fmt: skip


def model_input() -> Any:
    """Whose policy is made."""
    return io.Model.Input(
        "model", tooltip="Any that Asynchronous KSampler samples. It stays as it is, and needs no gradients."
    )


def clip_input() -> Any:
    """What encodes the prompts."""
    return io.Clip.Input(
        "clip", optional=True, tooltip="Encodes the prompts. Not needed where conditionings are given."
    )


def negative_input() -> Any:
    """What guidance goes away from, ready."""
    return io.Conditioning.Input("negative", optional=True, tooltip="In place of negative_prompt.")


def prompt_inputs() -> list[Any]:
    """The texts, as widgets."""
    return [
        io.String.Input(
            "prompts", multiline=True, default="", tooltip="One prompt a line. Many and varied are better than few."
        ),
        io.String.Input(
            "prompt_file", default="", tooltip="In place of prompts: a file in ComfyUI's input folder (text with a"
            " prompt a line, CSV, or JSON such as COCO captions).",
        ),
        io.String.Input("negative_prompt", default="", tooltip="For all prompts; does nothing at cfg 1."),
    ]  # fmt: skip


def sampler_inputs() -> list[Any]:
    """KSampler's settings."""
    return [
        io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance; Flux: 1."),
        io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="euler is the paper's."),
        io.Combo.Input(
            "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="How the noise level falls over the steps."
        ),
    ]


def latent_input() -> Any:
    """What the images start from; the last socket of both nodes."""
    return io.Latent.Input(
        "latent_image",
        optional=True,
        tooltip="In place of width and height: an empty latent, such as a video's, which says how long it is. Its first"
        " entry counts. Of a video the first, middle and last frame are judged.",
    )


def growing(name: str, kind: Any, most: int, about: str) -> list[Any]:
    """As many sockets as are connected and one more; a fixed number where the host cannot grow them."""
    if hasattr(io, "Autogrow"):
        template = io.Autogrow.TemplatePrefix(kind.Input(name, tooltip=about), prefix=name, min=0, max=most)
        return [io.Autogrow.Input(f"{name}s", template=template, tooltip=about)]
    return [kind.Input(f"{name}{n}", optional=True, tooltip=about) for n in range(FIXED_SOCKETS)]


def connected(given: Mapping[str, Any], name: str) -> list[Any]:
    """What is connected to the sockets of this name, in their order."""
    fixed = {f"{name}{n}": given.get(f"{name}{n}") for n in range(FIXED_SOCKETS)}
    return [entry for entry in (given.get(f"{name}s") or fixed).values() if entry is not None]


def shared_outputs(policy: str) -> list[Any]:
    """What both nodes give."""
    return [
        sockets.Policy.Output("policy", tooltip=f"{policy}, for Asynchronous KSampler; Load Policy lists the file."),
        io.Image.Output("report", tooltip="The charts of the run."),
        io.Image.Output("before", tooltip="Images of the synchronous sampler."),
        io.Image.Output("after", tooltip="The same prompts and seeds with the policy."),
        io.String.Output("text", tooltip="What was reached, and how to use the file."),
    ]


# ----------------------------------------------------------------------------------------------------- the setting


@dataclass(frozen=True)
class Setting:
    """Everything a run needs of the host."""

    studio: HostStudio
    scorer: HostScorer
    prompts: Sequence[str]


def open_setting(given: Mapping[str, Any]) -> Setting:
    """The studio, the scorer and the prompts of a node's inputs; what is missing is a sentence."""
    prompts = prompts_of(given["prompts"], given["prompt_file"])
    scorer = HostScorer(connected(given, "reward"), given["residual_noise"])
    settings = {name: given[name] for name in ("cfg", "sampler_name", "scheduler", "width", "height")}
    sampling = Sampling(**settings, latent=given.get("latent_image"))
    studio = HostStudio(given["model"], given["vae"], _texts(given, prompts), sampling)
    scorer.check(prompts)
    return Setting(studio, scorer, prompts)


def prompts_of(text: str, file: str) -> list[str]:
    """The lines of the text, or the prompts of a file in the input folder. Raises InputError, PromptFileError."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if file.strip():
        return read_prompts(prompt_path(file))
    if not lines:
        raise InputError("There are no prompts: write one a line, or name a prompt_file of the input folder.")
    return lines


def prompt_path(file: str) -> Path:
    """A file below ComfyUI's input folder, and nowhere else."""
    folder = Path(folder_paths.get_input_directory()).resolve()
    path = (folder / file.strip()).resolve()
    if not path.is_relative_to(folder):
        raise PromptFileError(f"{file} lies outside the input folder; put it there and give its name alone.")
    return path


def _texts(given: Mapping[str, Any], prompts: Sequence[str]) -> PromptCache:
    conditionings = connected(given, "conditioning")
    if conditionings:
        return PromptCache.given(prompts, conditionings, given.get("negative"), given["cfg"])
    if given.get("clip") is None:
        raise InputError("Connect a CLIP to encode the prompts, or a conditioning for each of them.")
    return PromptCache.from_clip(given["clip"], prompts, given.get("negative"), given["negative_prompt"])


def check_name(name: str) -> str:
    """The name of a file, without folders. Raises InputError."""
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be a file's name; use letters, digits, spaces and . _ + -.")
    return name


def policy_path(name: str, suffix: str) -> Path:
    """Where Load Policy finds the policy."""
    return _folder() / f"{check_name(name)}{suffix}"


def run_folder(name: str, *below: str) -> Path:
    """Where the state of a run is kept. Load Policy does not look there."""
    return Path(_folder(), RUNS, check_name(name), *below)


def _folder() -> Path:
    return Path(folder_paths.get_folder_paths("tpm")[0])


def fingerprint(file: Any) -> str:
    """Changes when the file of prompts does."""
    try:
        stat = prompt_path(file).stat() if isinstance(file, str) and file.strip() else None
    except (OSError, AsyncDiffError) as missing:
        return str(missing)
    return repr(stat and (stat.st_size, stat.st_mtime_ns))


def refuse(name: Any, prompts: Any, prompt_file: Any) -> bool | str:
    """What both nodes answer in `validate_inputs`."""
    answer = refusal(check_name, name)
    return answer if answer is not True else refusal(prompts_of, prompts, prompt_file)


# ------------------------------------------------------------------------------------------------- while it is run


class Live:
    """The node's progress bar, with a chart that is drawn now and then. It raises where the stop button was pressed."""

    def __init__(self, total: int, draw: Callable[[], Image.Image | None]) -> None:
        self._bar, self._draw = comfy.utils.ProgressBar(total), draw
        self._next = 0.0

    def show(self, done: int) -> None:
        """So much is done."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(done, preview=self._preview())

    def _preview(self) -> tuple[str, Image.Image, int] | None:
        began = time.monotonic()
        if began < self._next or self._bar.hook is None:
            return None
        page = drawn(self._draw)
        took = time.monotonic() - began
        self._next = began + max(QUIET, took / SHARE)
        return None if page is None else ("JPEG", page, PREVIEW_SIDE)


def show_last(report: Tensor) -> None:
    """Put the finished page in place of the live chart: the classic front end keeps the last chart that it was sent.

    report: IMAGE (1, H, W, 3).
    """
    bar = comfy.utils.ProgressBar(1)
    if bar.hook is not None:
        bar.update_absolute(1, preview=("JPEG", to_pil(report[0].movedim(-1, 0)), PREVIEW_SIDE))


def before_and_after(
    studio: HostStudio, prompts: Sequence[str], seeds: Sequence[int], policy: Policy, retiming: Retiming, steps: int
) -> tuple[Tensor, Tensor]:
    """IMAGE (n, H, W, 3) of the synchronous sampler and of the policy, n ≤ SHOWN; of videos the judged frames."""
    shots = [
        studio.render(prompts[:SHOWN], seeds[:SHOWN], which, retiming, steps=steps).images for which in (None, policy)
    ]
    before, after = (still_images(images)[0].clamp(0, 1).movedim(1, -1) for images in shots)
    return before, after


def outside_inference_mode() -> Any:
    """The executor runs nodes under inference mode, whose tensors cannot be learned from."""
    return torch.inference_mode(False)
