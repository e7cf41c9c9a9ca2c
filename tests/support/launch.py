"""Starts ComfyUI's main.py under conditions a test needs: `python launch.py <main.py> <flags>`."""

import os
import runpy
import sys
import threading
from pathlib import Path

import foreign_builds


def end_with_parent():
    """The parent holds the other end of stdin, so that a killed test run leaves no server behind."""

    def watch():
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def launch(main, flags):
    end_with_parent()
    foreign_builds.allow()
    sys.path[0] = str(Path(main).parent)
    sys.argv = [main, *flags]
    runpy.run_path(main, run_name="__main__")


if __name__ == "__main__":
    launch(sys.argv[1], sys.argv[2:])
