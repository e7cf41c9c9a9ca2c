"""A worker in another process, asked and answering with a line of JSON each. Both Pythons import it: stdlib alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def serve(handlers):
    """Answer requests from stdin until it closes. What a package prints goes to stderr, not among the answers."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            answers.write(json.dumps(handlers[request.pop("do")](**request)) + "\n")
            answers.flush()


def peak_memory(device="cpu"):
    """GiB that this process has held at most: on the device, or resident (Linux; 0 elsewhere)."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return sum(int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM"))


def clock(device="cpu"):
    """Seconds, on a CPU those that this process was given, so that other programs do not count."""
    return time.perf_counter() if device.startswith("cuda") else time.process_time()


class Worker:
    """`python script`, started in ``folder``; call it with what to ``do``. Leaving the context ends it."""

    def __init__(self, python, script, folder, **environment):
        self._name = script
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name(script))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=folder,
            env={**os.environ, **environment},
        )

    def __call__(self, do, **values):
        self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self._name} ended with code {self._process.wait()}; its own message is above.")
        return json.loads(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
