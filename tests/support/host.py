"""Where ComfyUI is: COMFYUI_PATH, else the folder the pack lies in, else comfy-cli's place.

`python -m support.host`, in tests/, prints the folder or nothing: `.ci/run` asks with it.
"""

import os
import sys
from pathlib import Path

from support.paths import ROOT

NO_HOST = "no ComfyUI found: set COMFYUI_PATH to a checkout whose requirements are installed"
REQUIRED = "ASYNCDIFF_REQUIRE_HOST"  # set: a test that needs a host fails without one


def find_host():
    named = os.environ.get("COMFYUI_PATH")
    places = [Path(named)] if named else [ROOT.parents[1], Path.home() / "comfy" / "ComfyUI"]
    return next((place for place in places if (place / "comfy" / "sd.py").is_file()), None)


def without_host(reason=NO_HOST):
    """End a test that needs a host with one line: a skip, or a failure where a host must be there."""
    import pytest

    if os.environ.get(REQUIRED):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def host_or_skip():
    """The host's folder; without one the test ends."""
    return find_host() or without_host()


def check_nodes(host):
    """End a test that needs the pack's nodes on a host that is too old for them; the patch itself may well work."""
    import pytest

    if "CurveInput" not in (host / "comfy_api" / "input" / "__init__.py").read_text(encoding="utf-8"):
        pytest.skip("this ComfyUI has no CURVE widget, which the pack's nodes need")


if __name__ == "__main__":
    sys.stdout.write(str(find_host() or ""))
