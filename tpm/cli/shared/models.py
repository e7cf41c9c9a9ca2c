"""Which model is meant, its defaults, and loading it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import usual
from ...embedded.judge_file import FILE as JUDGE_FILE
from ...embedded.judge_file import MOST_OBJECTS, world_name
from ...errors import HostError
from ...files import EMBEDDED_FOLDER, read_json
from ...hosts.folders import DRIVEN, PIXELWISE, backbone_of, find_folder
from ...retiming.solvers import EULER

if TYPE_CHECKING:
    from ...embedded.worlds import World
    from ...hosts.diffusers.ddim import DDIMStudio
    from ...hosts.diffusers.studio import DiffusersStudio
    from ...retiming.solvers import Solver

EMBEDDED = usual.EMBEDDED
DTYPES = ("float32", "bfloat16", "float16")
ADVICE = "For free text choose another model with --model."


HUB_NAMES = {
    "flux.2": "flux2", "flux2": "flux2", "flux": "flux", "qwen": "qwen-image", "z-image": "z-image", "sdxl": "sdxl",
    "stable-diffusion-xl": "sdxl", "stable-diffusion-v1": "sd1", "stable-diffusion-2": "sd2",
}  # fmt: skip
"""What a hub id says of the family, until the pipeline is loaded; sd3 for any other."""


@dataclass(frozen=True)
class Model:
    """A model that was asked for. ``folder`` is None for a hub id, whose ``backbone`` is guessed from its name."""

    source: str
    name: str
    folder: Path | None = None
    backbone: str = "sd3"

    @property
    def judged(self) -> bool:
        """Whether the embedded world's vocabulary and judge belong to it."""
        return self.folder is not None and (self.folder / JUDGE_FILE).is_file()

    def defaults(self, backbone: str | None = None) -> usual.Usual:
        """The family's usual settings."""
        return usual.USUAL[EMBEDDED if self.judged else backbone or self.backbone]


def locate(model: str, *, pixelwise: bool = False) -> Model:
    """Find the model without loading it: ``embedded``, a pipeline folder, or a hub id.

    pixelwise: one of the families that pixel-wise denoising drives.
    """
    if model == EMBEDDED and not EMBEDDED_FOLDER.is_dir():
        raise HostError("The embedded pipeline (weights/tiny-sd35) is missing; install the package again.")
    source = str(EMBEDDED_FOLDER) if model == EMBEDDED else model
    folder = find_folder(source, PIXELWISE if pixelwise else DRIVEN)
    if folder is None:
        guessed = (word for part, word in HUB_NAMES.items() if part in source.lower())
        return Model(source, source.split("/")[1], backbone=next(guessed, "sd3"))
    backbone = backbone_of(str(read_json(folder / "model_index.json", HostError)["_class_name"]))
    if pixelwise and backbone != "sd3":
        backbone = "unet"
    return Model(source, folder.resolve().name, folder, backbone)


def check_texts(model: Model, texts: Iterable[str]) -> list[str]:
    """The texts as the model reads them. PromptError for a word that the embedded pipeline does not know."""
    from ...embedded.vocabulary import check_prompt

    return [check_prompt(text, ADVICE) for text in texts] if model.judged else list(texts)


def check_captions(model: Model, texts: Iterable[str]) -> list[str]:
    """The texts as the model reads them; captions that its world cannot draw or its judge cannot read: PromptError."""
    from ...embedded.vocabulary import check_caption

    if not model.judged:
        return list(texts)
    assert model.folder is not None
    objects = MOST_OBJECTS[world_name(model.folder)]
    return [check_caption(text, objects, ADVICE) for text in texts]


def world_of(model: Model) -> World:
    """The world that an embedded pipeline was trained on."""
    from ...embedded.judges import world_of

    assert model.folder is not None
    return world_of(model.folder)


def open_studio(model: Model, dtype: str | None, device: str | None, solver: Solver | None = None) -> DiffusersStudio:
    """Load the pipeline; solver: who makes the steps, None for Euler."""
    from ...hosts.diffusers.studio import DiffusersStudio

    _quiet()
    return DiffusersStudio.load(model.source, dtype=dtype, device=device, solver=solver or EULER)


def open_pixelwise(model: Model, dtype: str | None, device: str | None) -> DiffusersStudio | DDIMStudio:
    """Load a pipeline of a family that pixel-wise denoising drives."""
    from ...hosts.diffusers.ddim import DDIMStudio
    from ...hosts.diffusers.loading import load_pipeline
    from ...hosts.diffusers.studio import DiffusersStudio

    _quiet()
    pipe, folder = load_pipeline(model.source, dtype, device, PIXELWISE)
    return DDIMStudio(pipe, folder) if hasattr(pipe, "unet") else DiffusersStudio(pipe, folder)


def _quiet() -> None:
    """One progress bar is enough: silence those of the libraries."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()


def add_model(parser: Any) -> None:
    """``--model`` and how it is loaded."""
    parser.add_argument("--model", default=EMBEDDED, help="diffusers folder or hub id (default: the embedded pipeline)")
    parser.add_argument("--dtype", choices=DTYPES, help="default: what the model was saved in, float32 on a CPU")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, … (default: the best there is)")
