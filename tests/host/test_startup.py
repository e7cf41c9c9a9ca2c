"""The start of ComfyUI: the pack loads its own modules, reads no file and computes nothing before a node runs."""

import subprocess
import sys

import pytest

from support.host import host_or_skip
from support.paths import ROOT

pytestmark = pytest.mark.host


def test_nothing_is_read_or_computed_before_a_node_runs():
    host_or_skip()
    script = ROOT / "tests" / "tools" / "startup.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode and "no ComfyUI" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert "of other packages: none" in done.stdout, done.stdout + done.stderr[-2000:]
    assert "files read beside Python's own: none" in done.stdout
    assert "operators of torch: 0" in done.stdout
