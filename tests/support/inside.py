"""ComfyUI's own modules in this process, and this checkout as the pack `asyncdiff`, whatever else is installed."""

import importlib.util
import sys

from support import foreign_builds
from support.host import NO_HOST, find_host
from support.paths import ROOT


def enter(cpu=True):
    """ComfyUI's `nodes` module, on the CPU or on the GPU there is, or one sentence that says why there is none."""
    host = find_host()
    if host is None:
        return NO_HOST
    use_checkout()
    if str(host) not in sys.path:
        sys.path.insert(0, str(host))
        foreign_builds.allow()
    try:
        from comfy.cli_args import args

        args.cpu, args.highvram = cpu, not cpu
        importlib.import_module("utils.extra_config")  # `nodes` puts comfy/ on the path, whose utils.py would hide it
        import nodes
    except (ImportError, OSError) as missing:
        return f"{NO_HOST} ({type(missing).__name__}: {' '.join(str(missing).split())})"
    return nodes


def use_checkout():
    """Import the pack from this folder, as ComfyUI does: an installed `asyncdiff` has no nodes."""
    known = sys.modules.get("asyncdiff")
    if known is not None and getattr(known, "__path__", None) == [str(ROOT)]:
        return
    place = ROOT / "__init__.py"
    spec = importlib.util.spec_from_file_location("asyncdiff", place, submodule_search_locations=[str(ROOT)])
    sys.modules["asyncdiff"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["asyncdiff"])


if __name__ == "__main__":  # `.ci/run` asks whether an environment can be used
    core = enter()
    sys.exit(core if isinstance(core, str) else 0)
