"""torchvision and torchaudio whose compiled parts do not fit this torch (their CUDA builds beside a CPU torch).

ComfyUI imports both but needs, on the CPU, only what they do in Python. `allow` lets that import succeed.
"""

import importlib.abc
import importlib.machinery
import sys
from pathlib import Path

DEFINITION = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def allow():
    """Put both finders before Python's own; a second call changes nothing."""
    for kind in (VisionOperators, AudioExtension):
        if not any(isinstance(finder, kind) for finder in sys.meta_path):
            sys.meta_path.insert(0, kind())


class VisionOperators(importlib.abc.MetaPathFinder):
    """torchvision imports only when its operators are declared.

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
                self.library.define(operator + DEFINITION)


class AudioExtension(importlib.abc.MetaPathFinder):
    """Where torchaudio's compiled library does not load, torchaudio is told that it has none."""

    def find_spec(self, name, path=None, target=None):
        if name != "torchaudio._extension":
            return None
        if all(loads(library) for folder in path for library in Path(folder, "lib").glob("_torchaudio.*")):
            return None
        return importlib.machinery.ModuleSpec(name, NoExtension(), is_package=True)


class NoExtension(importlib.abc.Loader):
    """Makes what `torchaudio/_extension/__init__.py` makes where no compiled library is installed."""

    def exec_module(self, module):
        module._IS_TORCHAUDIO_EXT_AVAILABLE = False
        module._IS_ALIGN_AVAILABLE = False
        module._check_cuda_version = lambda: None
        module._load_lib = lambda name: False
        module.fail_if_no_align = needs_extension


def needs_extension(function):
    def fail(*args, **kwargs):
        raise RuntimeError(f"{function.__name__} needs torchaudio's compiled library, which does not fit this torch")

    return fail


def loads(library):
    import torch

    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True
