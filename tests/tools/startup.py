"""What the pack adds to the start of ComfyUI: processor time, modules, files that are read and operators of torch.

    python tests/tools/startup.py

Measured from the moment when ComfyUI's own modules are loaded to the moment when it knows all nodes of the pack.
"""

import asyncio
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main():
    sys.path.insert(0, str(ROOT / "tests"))
    from support.inside import enter

    core = enter()
    if isinstance(core, str):
        raise SystemExit(core)
    import comfy_extras.nodes_custom_sampler  # noqa: F401 - loaded by ComfyUI before any pack
    import server  # noqa: F401
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Operators(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Operators.count += func is not torch.ops.aten.lift_fresh.default  # a constant that is written down
            return func(*args, **(kwargs or {}))

    known, read, watching = set(sys.modules), [], [True]

    def note(event, args):
        if (
            event == "open"
            and watching[0]
            and not str(args[0]).endswith((".py", ".pyc"))
            and ".pyc." not in str(args[0])
        ):
            read.append(str(args[0]))

    torch.empty(0)
    sys.addaudithook(note)
    started = time.process_time()
    with Operators():
        from asyncdiff.nodes.extension import AsyncDiffExtension

        for node in asyncio.run(AsyncDiffExtension().get_node_list()):
            node.GET_SCHEMA()
    taken, watching[0] = time.process_time() - started, False
    new = sorted(set(sys.modules) - known)
    others = sorted({name.split(".")[0] for name in new if not name.startswith("asyncdiff")})
    print(f"processor time: {taken:.2f} s")
    print(f"modules: {len(new)}, of other packages: {', '.join(others) or 'none'}")
    print(f"files read beside Python's own: {', '.join(read) or 'none'}")
    print(f"operators of torch: {Operators.count}")


if __name__ == "__main__":
    main()
