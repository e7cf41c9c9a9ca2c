"""What policies are called in Load Policy's list, and the file behind each name, also behind older names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths

from ...tpm.errors import PolicyError
from ...tpm.policies import Policy, load_policy, presets
from ...tpm.suggestions import did_you_mean

AUTOMATIC = "automatic (by model)"
SHIPPED = "shipped: "  # before the name of a preset, in lists of release 0.2
RUNS = "training"  # the folder of models/tpm with the states of training and search

TITLES = {
    "sd35-coco": "SD3.5 · constant 0.19 · the paper's mean on COCO",
    "sd35-compbench": "SD3.5 · constant 0.23 · the paper's mean on CompBench",
    "sd35-coco-lifted": "SD3.5 · constant 0.40 · the paper's mean on COCO (lifted)",
    "sd35-compbench-lifted": "SD3.5 · constant 0.11 · the paper's mean on CompBench (lifted)",
    "flux-coco": "Flux · constant 0.50 · the paper's mean on COCO",
    "flux-compbench": "Flux · constant 0.50 · the paper's mean on CompBench",
    "flux-coco-lifted": "Flux · constant 0.96 · the paper's mean on COCO (lifted)",
    "flux-compbench-lifted": "Flux · constant 0.64 · the paper's mean on CompBench (lifted)",
    "sdxl-start": "SDXL · constant 0.20 · a first value (not measured)",
    "constant-one-tail": "any flow model · constant 1.00 · untrained (for tail_sync 1)",
    "tiny-sd35": "embedded pipeline · constant 0.40 · chosen by hand",
    "tiny-sd35-curve": "embedded pipeline · curve · searched (for tail_sync 1)",
    "tiny-sd35-dpmpp_2m": "embedded pipeline · curve · searched for dpmpp_2m",
    "tiny-sd35-tpm": "embedded pipeline · TPM · trained",
}
"""By the name of a preset: the models that it is for, what kind of policy it is, and where it comes from."""

folder_paths.add_model_folder_path("tpm", str(Path(folder_paths.models_dir, "tpm")))


def policy_files() -> dict[str, Path]:
    """Every policy by the name in the list: files of models/tpm (newest first), then those that the pack ships."""
    own: dict[str, Path] = {}
    for folder in map(Path, folder_paths.get_folder_paths("tpm")):
        for path in sorted((*folder.rglob("*.safetensors"), *folder.rglob("*.json"))):
            if path.relative_to(folder).parts[0] != RUNS:
                own.setdefault(path.relative_to(folder).as_posix(), path)
    newest = dict(sorted(own.items(), key=lambda item: -item[1].stat().st_mtime))
    return newest | shipped_files()


def shipped_files() -> dict[str, Path]:
    """The presets by the name in the list, in the order of `TITLES`."""
    found = presets()
    order = [*(name for name in TITLES if name in found), *(name for name in found if name not in TITLES)]
    return {title_of(name): found[name] for name in order}


def title_of(preset: str) -> str:
    """What the list calls a preset."""
    return TITLES.get(preset, SHIPPED + preset)


def renamed() -> dict[str, str]:
    """Names that presets had in older releases and have in the commands, and the name that the list has for each."""
    forms = ("{}", SHIPPED + "{}", "{}.json", "{}.safetensors", SHIPPED + "{}.json", SHIPPED + "{}.safetensors")
    return {form.format(preset): title_of(preset) for preset in presets() for form in forms}


def listed(name: Any) -> str:
    """The list's own name for a name in any form. Raises PolicyError where there is no such policy."""
    files = policy_files()
    if isinstance(name, str):
        for form in (name, renamed().get(name, name)):
            if form == AUTOMATIC or form in files:
                return form
    near = did_you_mean(str(name), [*files, *presets()])
    raise PolicyError(f"There is no policy {str(name)[:80]!r} in models/tpm{near}; choose another one in Load Policy.")


def file_of(name: str) -> Path | None:
    """The file of a name in any form, or None: it is automatic."""
    form = listed(name)
    return None if form == AUTOMATIC else policy_files()[form]


def load(name: str) -> Policy:
    """The policy of a name in any form, which is not automatic."""
    path = file_of(name)
    if path is None:
        raise PolicyError("The automatic policy has no file; choose a policy by name.")
    return load_policy(path)


def short(name: str) -> str:
    """A name of the list without what only the list needs: a preset's own name, or the name of a file."""
    return next((preset for preset in presets() if title_of(preset) == name), name)
