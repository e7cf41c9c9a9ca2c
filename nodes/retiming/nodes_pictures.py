"""Policy from Image: what made a picture, read from the picture itself."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...tpm.errors import PolicyError
from ...tpm.policies.pictures import chosen, runs_in
from ...tpm.policies.shared import SharedRun, restored
from ...tpm.retiming.trace import Trace
from .. import sockets
from ..schema import refusal, schema
from .nodes_policies import policy_files

POLICY, DECISIONS = "policy, if it is here", "recorded decisions"
OUTPUT = " [output]"


class PolicyFromImage(io.ComfyNode):
    """Reads a policy from a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncDiffPolicyFromImage",
            display_name="Policy from Image",
            description="Reads from a picture which policy made it, to repeat it or to use the policy for another one."
            " Every picture that is saved after an asynchronous sampler holds this: a constant or a curve whole, a TPM"
            " by its hash and its decisions.",
            search_aliases=["asyncdiff", "share", "metadata", "png", "from image", "replay", "policy"],
            inputs=[
                io.Combo.Input(
                    "image",
                    options=_pictures(),
                    upload=io.UploadType.image,
                    tooltip="A picture of the input folder: PNG or WebP, as ComfyUI saved it.",
                ),
                io.Combo.Input(
                    "use",
                    options=[POLICY, DECISIONS],
                    tooltip="The policy itself: a TPM must then be in models/tpm, under any name. Or what it decided,"
                    " step by step, which needs no file, and the same steps, scheduler and batch.",
                ),
                io.String.Input(
                    "sampler",
                    default="",
                    tooltip="Where several samplers made the picture: the number of the node that is meant. Empty: the"
                    " only one.",
                ),
                io.String.Input(
                    "path",
                    default="",
                    optional=True,
                    tooltip="A picture of the output folder, such as ComfyUI_00001_.png; it is read in place of image.",
                ),
            ],
            outputs=[
                sockets.policy_output(),
                sockets.Trace.Output("trace", tooltip="What was decided step by step, for Deviation Plot."),
                io.Float.Output(
                    "gamma_out",
                    display_name="strength (γ)",
                    tooltip="The deviation strength of the picture; connect it to that of the sampler.",
                ),
                io.String.Output("text", tooltip="What made the picture, in words."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, image: str | None = None, use: str | None = None, sampler: str | None = None, path: str | None = ""
    ) -> bool | str:
        """Refuse a picture without a policy before anything is queued."""
        return refusal(cls.policy, image, use, sampler, path)

    @classmethod
    def execute(cls, image: str, use: str, sampler: str, path: str = "") -> io.NodeOutput:
        run, policy = cls.policy(image, use, sampler, path)
        trace = Trace.from_dict(run.trace, "The trace of the picture") if run.trace else None
        gamma = float(trace.retiming.get("gamma", 1.0)) if trace else 1.0
        return io.NodeOutput(policy, trace, gamma, described(run, trace))

    @staticmethod
    def policy(image: str, use: str, sampler: str, path: str = "") -> tuple[SharedRun, Any]:
        """The run that the widgets mean, and its policy. Raises PolicyError."""
        run = chosen(runs_in(located(image, path)), sampler)
        return run, run.decisions() if use == DECISIONS else restored(run, policy_files().values())

    @classmethod
    def fingerprint_inputs(cls, image: str, use: str, sampler: str, path: str = "") -> str:
        """A replaced picture is read again, and a TPM that has arrived is found."""
        files = [*policy_files().values()]
        with suppress(PolicyError):  # which the node itself says when it runs
            files.append(located(image, path))
        stats = [file.stat() for file in files if file.is_file()]
        return repr((image, use, sampler, path, [(stat.st_size, stat.st_mtime_ns) for stat in stats]))


def located(image: str, path: str = "") -> Path:
    """The file that the widgets mean. Raises PolicyError for one outside of the host's own folders."""
    typed = path.strip() if isinstance(path, str) else ""
    name = f"{typed}{OUTPUT}" if typed else image
    if not isinstance(name, str) or not name.strip():
        raise PolicyError("Choose a picture, or write the path of one in the output folder.")
    bare, folder = folder_paths.annotated_filepath(name)
    home = Path(folder or folder_paths.get_input_directory()).resolve()
    try:
        found = (home / bare).resolve()
    except (OSError, ValueError) as cause:
        raise PolicyError(f"{bare[:100]!r} cannot be the name of a file; choose a picture.") from cause
    if not found.is_relative_to(home):
        raise PolicyError(f"{bare[:100]} is outside of the folder {home.name}; copy the picture there.")
    return found


def described(run: SharedRun, trace: Trace | None) -> str:
    """The policy and the settings in some lines."""
    kind = run.policy.get("kind", "recorded")
    lines = [f"policy {run.name} ({'TPM' if kind == 'learned' else kind})"]
    if run.file:
        lines.append(f"file {run.file.name}, sha256 {run.file.sha256}")
    if trace:
        settings = ", ".join(f"{name} {value}" for name, value in trace.retiming.items())
        lines += [f"{trace.steps} steps", settings, *trace.notes]
    if run.runs > 1:
        lines.append(f"The node sampled {run.runs} times; the decisions are those of the last.")
    return "\n".join([*lines, *run.notes])


def _pictures() -> list[str]:
    """The pictures of the input folder; an empty name where there are none."""
    folder = Path(folder_paths.get_input_directory())
    files = [file.name for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    return sorted(folder_paths.filter_files_content_types(files, ["image"])) or [""]


NODES = [PolicyFromImage]
