"""AsynDM's own program, run on the CPU without its command line, and what it did at each step.

The program stays as it is. It gets a stand-in for the two packages that read its options, the CPU where it asks for
the first GPU, and four of its functions tell what they were given and what they returned.
"""

import importlib
import sys
from contextlib import redirect_stdout
from functools import partial, wraps
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

NEEDED = ("asyn_sample.py", "config/config.py")


class Options(dict):
    """ml_collections' ConfigDict, as far as the program uses it."""

    __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__


class Instead:
    """A module, with some of its names replaced."""

    def __init__(self, module, **replaced):
        self._module = module
        vars(self).update(replaced)

    def __getattr__(self, name):
        return getattr(self._module, name)


def load(repository):
    """The program's module. SystemExit where the folder is another."""
    missing = [name for name in NEEDED if not Path(repository, name).is_file()]
    if missing:
        raise SystemExit(
            f"{repository} has no {missing[0]}: give the folder of github.com/hu-zijing/AsynDM, which is not part of"
            " this repository."
        )
    options, command = ModuleType("ml_collections"), ModuleType("absl")
    options.ConfigDict = Options
    options.config_flags = SimpleNamespace(DEFINE_config_file=lambda *_, **__: None)
    command.app, command.flags = SimpleNamespace(run=None), SimpleNamespace(FLAGS=None)
    sys.modules |= {"ml_collections": options, "absl": command}
    sys.path.insert(0, str(repository))
    return on_the_cpu(importlib.import_module("asyn_sample"))


def on_the_cpu(program):
    cuda = Instead(torch.cuda, set_device=lambda _: None)
    program.torch = Instead(torch, Generator=lambda device: torch.Generator("cpu"), cuda=cuda)
    program.Accelerator = partial(program.Accelerator, cpu=True)
    program.tqdm = lambda steps, **_: steps
    return program


def run(program, options):
    """Run it with these options, by their names on its command line. What it did, see `watched`."""
    config = importlib.import_module("config.config").get_config()
    for name, value in options.items():
        assign(config, name.split("."), value)
    program.FLAGS = SimpleNamespace(config=config)
    with watched(program) as seen, redirect_stdout(StringIO()):
        program.main(None)
    return seen


def assign(config, path, value):
    for name in path[:-1]:
        config = config[name]
    if path[-1] not in config:
        raise SystemExit(f"This version of the program has no option {'.'.join(path)}.")
    config[path[-1]] = value


class watched:  # noqa: N801 - used as a function
    """Lists that fill inside the context, of base, base2 and tgt one after the other.

    latents: after each step. t, t_next: of each pixel (B, 1, 64, 64), of base2 and tgt. maps: (B, J, 256), of base and
    tgt. masks: (B, J, 64, 64), one of all steps of base, then one of each step of dynamic tgt.
    """

    def __init__(self, program):
        self._program, self._seen = program, {name: [] for name in ("latents", "t", "t_next", "maps", "masks")}

    def __enter__(self):
        program = self._program
        self._kept = dict(vars(program))
        program.ddim_step_with_logprob = told(program.ddim_step_with_logprob, self.stepped)
        program.asyn_ddim_step_with_logprob = told(program.asyn_ddim_step_with_logprob, self.moved)
        program.unet_asyn_forward = told(program.unet_asyn_forward, self.evaluated)
        program.F = Instead(program.F, interpolate=told(program.F.interpolate, self.upsampled))
        return self._seen

    def __exit__(self, *_):
        vars(self._program).update(self._kept)

    def stepped(self, result, *_, **__):
        self._seen["latents"].append(result[0].clone())

    def moved(self, result, _scheduler, _output, t, t_next, *_, **__):
        self.stepped(result)
        self._seen["t"].append(t[:, :1].clone())
        self._seen["t_next"].append(t_next[:, :1].clone())

    def evaluated(self, result, *_, **__):
        if len(result) > 1:
            self._seen["maps"].append(result[1]["cross_mask"].mT.clone())

    def upsampled(self, result, *_, **__):
        self._seen["masks"].append(result.bool())


def told(function, listener):
    """The function, after which the listener gets its result and its arguments."""

    @wraps(function)
    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        listener(result, *args, **kwargs)
        return result

    return call
