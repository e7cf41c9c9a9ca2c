"""Tests inside ComfyUI's own code. The host: COMFYUI_PATH, else the folder the pack lies in, else comfy-cli's place."""

import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
NO_HOST = "no ComfyUI found: set COMFYUI_PATH to a checkout whose requirements are installed"


def find_host():
    named = os.environ.get("COMFYUI_PATH")
    places = [Path(named)] if named else [ROOT.parents[1], Path.home() / "comfy" / "ComfyUI"]
    return next((place for place in places if (place / "comfy" / "sd.py").is_file()), None)


def declare_vision_operators():
    """torchvision's CUDA build beside a CPU build of torch fails to import unless its two operators are declared."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@pytest.fixture(scope="session")
def comfy():
    """ComfyUI's `nodes` module on the CPU; skips with one line where there is no host."""
    host = find_host()
    if host is None:
        pytest.skip(NO_HOST)
    sys.path.insert(0, str(host))
    library = None if torch.cuda.is_available() else declare_vision_operators()
    try:
        from comfy.cli_args import args

        args.cpu = True
        import nodes
    except ImportError as missing:
        pytest.skip(f"{NO_HOST} ({missing})")
    yield nodes
    sys.path.remove(str(host))
    del library
