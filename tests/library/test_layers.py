"""Fifteen rooms on nine floors; imports go down only. `python tests/library/test_layers.py` prints the map."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A room imports from lower floors only. Subfolders belong to the room of their parent folder.
FLOORS = (
    ("tpm",),  # errors, files, statistics
    ("tpm.retiming", "tpm.rewards", "tpm.drawing"),
    ("tpm.policies",),
    ("tpm.pixelwise", "tpm.training"),
    ("tpm.hosts.diffusers",),
    ("tpm.embedded",),
    ("tpm.cli", "nodes"),
    ("nodes.retiming", "nodes.rewards"),
    ("nodes.pixelwise", "nodes.training"),
)
REGISTRY = "nodes.extension"  # lists all nodes, above every room
FLOOR = {room: floor for floor, rooms in enumerate((*FLOORS, (REGISTRY,)), start=1) for room in rooms}

COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "nodes", "server"}
STANDALONE = {"accelerate", "diffusers", "tensorboard"}  # not in ComfyUI's environment
STANDALONE_ROOMS = {"tpm.cli", "tpm.embedded", "tpm.hosts.diffusers"}
TWINS = ("studio", "tokens", "unet")  # what both hosts have, under one name


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for folder in ("tpm", "nodes") for file in (ROOT / folder).rglob("*.py")}


def room_of(module):
    """The longest named room that holds the module."""
    if module == REGISTRY:
        return module
    rooms = [room for room in FLOOR if room != REGISTRY and f"{module}.".startswith(f"{room}.")]
    return max(rooms, key=len)


def imported(module):
    """Absolute names of what a file imports anywhere, also inside functions; ours start with `tpm` or `nodes`."""
    file = FILES[module]
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            origin = ".".join(filter(None, base))
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                yield whole if whole in FILES else origin


def ours(module):
    return {name for name in imported(module) if name in FILES} - {module}


def arrows():
    """{room: {room it imports from: {"file → file"}}}."""
    found = defaultdict(lambda: defaultdict(set))
    for module in FILES:
        for other in ours(module):
            if room_of(module) != room_of(other):
                found[room_of(module)][room_of(other)].add(f"{module} → {other}")
    return found


def test_every_folder_with_code_is_in_a_room():
    assert {room_of(module) for module in FILES} == set(FLOOR)


def test_imports_between_rooms_go_down_only():
    upward = {
        reason
        for room, others in arrows().items()
        for other, reasons in others.items()
        for reason in reasons
        if FLOOR[other] >= FLOOR[room]
    }
    assert sorted(upward) == []


@pytest.mark.parametrize("room", FLOOR)
def test_the_files_of_a_room_import_each_other_in_no_circle(room):
    inside = {
        module: {other for other in ours(module) if room_of(other) == room}
        for module in FILES
        if room_of(module) == room
    }
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as circle:
        pytest.fail(" → ".join(circle.args[1]), pytrace=False)


def test_the_library_knows_no_comfyui():
    library = [module for module in FILES if module.startswith("tpm")]
    assert sorted((m, name) for m in library for name in imported(m) if name.split(".")[0] in COMFYUI) == []


def test_what_comfyui_does_not_bring_stays_at_the_edge():
    inner = [module for module in FILES if room_of(module) not in STANDALONE_ROOMS]
    assert sorted((m, name) for m in inner for name in imported(m) if name.split(".")[0] in STANDALONE) == []


@pytest.mark.parametrize("name", TWINS)
def test_what_both_hosts_have_is_in_files_of_one_name(name):
    assert f"tpm.hosts.diffusers.{name}" in FILES
    assert [module for module in FILES if module.startswith("nodes.") and module.endswith(f".{name}")]


def print_map():
    found = arrows()
    for floor, rooms in reversed([*enumerate((*FLOORS, (REGISTRY,)), start=1)]):
        for room in rooms:
            print(f"{floor:2} {room:20} → {', '.join(sorted(found[room]))}")
    print(
        f"{len(FLOOR) - 1} rooms, {len(FLOORS)} floors, {sum(map(len, found.values())) - len(found[REGISTRY])} arrows"
    )


if __name__ == "__main__":
    print_map()
