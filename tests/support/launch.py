"""Starts ComfyUI's main.py under conditions a test needs: `python launch.py <main.py> <flags>`."""

import importlib.abc
import os
import runpy
import sys
import threading
from pathlib import Path


class VisionOperators(importlib.abc.MetaPathFinder):
    """torchvision's CUDA build beside a CPU build of torch imports only when its operators are declared.

    They are declared just before torchvision looks them up, and only where its compiled library did not do so.
    """

    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision._meta_registrations":
            self.declare()

    def declare(self):
        import torch

        if self.library is None and not hasattr(torch.ops.torchvision, "nms"):
            self.library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                self.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def end_with_parent():
    """The parent holds the other end of stdin, so that a killed test run leaves no server behind."""

    def watch():
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def launch(main, flags):
    end_with_parent()
    sys.meta_path.insert(0, VisionOperators())
    sys.path[0] = str(Path(main).parent)
    sys.argv = [main, *flags]
    runpy.run_path(main, run_name="__main__")


if __name__ == "__main__":
    launch(sys.argv[1], sys.argv[2:])
