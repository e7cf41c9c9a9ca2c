"""What watching the attention takes, per layer of SDXL and SD3.5 at full width: memory at most, and processor time.

    cd tests && python -m tools.attention_cost

Queries and keys are random, in the numbers that a layer has for one image. "at most" is what the process held more
than before while a layer's maps were made (Linux); "more layers" is by how much seven more layers raised that. The
attention of all image tokens to all others, which is never made, is beside it. Seconds are those of one core.
"""

import ctypes
import time
from pathlib import Path

import torch

from asyncdiff.tpm.pixelwise.attention_maps import MapMean, text_maps
from reference.exchange import peak_memory

MODELS = {  # heads, head width, pixels a query is wide, text tokens, layers that are watched
    "SDXL": (20, 64, 32, 77, 60),
    "SD3.5-Medium": (24, 64, 16, 77 + 256, 24),
    "SD3.5-Large": (38, 64, 16, 77 + 256, 38),
}
CLEAR = Path("/proc/self/clear_refs")
SIZES, LAYERS, REGIONS = (512, 1024), 8, (1, 8)


def main():
    if not CLEAR.exists():
        raise SystemExit("The memory of a process is read from /proc, which only Linux has; run this there.")
    torch.set_num_threads(1)
    print("model         image  queries x text  at most  more layers  all to all  layers  s a layer  with 8 regions")
    with torch.no_grad():
        for name, (heads, width, cell, text, layers) in MODELS.items():
            for size in SIZES:
                query = torch.randn(1, heads, (size // cell) ** 2, width, dtype=torch.bfloat16)
                key = torch.randn(1, heads, text, width, dtype=torch.bfloat16)
                print(f"{name:<14}{size:<7}{row(query, key, size // cell, layers)}", flush=True)


def row(query, key, side, layers):
    watch(query, key, side, 1, regions=2)  # what a first call loads does not count
    one, more = (peak(query, key, side, count) for count in (1, LAYERS))
    seconds = [spent(query, key, side, regions) for regions in REGIONS]
    queries, text = query.shape[2], key.shape[2]
    quadratic = query.shape[1] * queries**2 * 4 / 2**20
    return (
        f"{f'{queries} x {text}':<16}{one:<9.1f}{more - one:<13.1f}{quadratic:<12.0f}{layers:<8}"
        f"{seconds[0]:<11.3f}{seconds[1]:.3f}"
    )


def watch(query, key, side, layers, regions):
    """Maps of some layers, as a step's capture collects them."""
    seen = MapMean()
    tokens = [(place,) for place in range(1, 1 + regions)]
    for _ in range(layers):
        seen.add(text_maps(query, key, tokens, (side, side)))
    return seen.mean


def peak(query, key, side, layers):
    """MiB that the process held more than before."""
    ctypes.CDLL(None).malloc_trim(0)  # nothing that was freed is still held
    CLEAR.write_text("5", encoding="ascii")  # the peak begins anew
    before = peak_memory()
    watch(query, key, side, layers, regions=2)
    return (peak_memory() - before) * 1024


def spent(query, key, side, regions):
    started = time.process_time()
    watch(query, key, side, 1, regions)
    return time.process_time() - started


if __name__ == "__main__":
    main()
