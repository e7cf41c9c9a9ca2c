"""The command in two processes, as `accelerate launch` would start it."""

import os
import socket
import subprocess
import sys


def launch(*arguments, size=2, timeout=300):
    """Exit codes by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    members = [
        subprocess.Popen(
            [sys.executable, "-m", "asyncdiff.tpm.cli", *map(str, arguments)],
            env={**os.environ, **{k: str(v) for k, v in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}},
        )
        for rank in range(size)
    ]
    try:
        return [member.wait(timeout) for member in members]
    finally:
        for member in members:
            member.kill()
            member.wait()
