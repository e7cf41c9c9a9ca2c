"""What a test wants to know of a latent, to the bit, and of the run that made it."""

import hashlib
import json


class StandInReport:
    """Shows shape, digest and finiteness of a latent as text, and the deviations that a trace says were proposed.

    `run` makes one run's report another than the next's: the host shows no text of a node that it has cached.
    """

    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {"latent": ("LATENT",), "run": ("INT", {"default": 0})},
            "optional": {"trace": ("ASYNCDIFF_TRACE",)},
        }
    )
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "report"
    CATEGORY = "tests"

    def report(self, latent, run, trace=None):
        samples = latent["samples"]
        parts = samples.unbind() if samples.is_nested else [samples]
        digest = hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()
        told = {
            "shapes": [list(part.shape) for part in parts],
            "finite": all(bool(part.isfinite().all()) for part in parts),
            "spread": min(float(part.std()) for part in parts),
            "digest": digest,
            "proposed": list(trace.trace.proposed) if trace else None,
        }
        return {"ui": {"report": [json.dumps(told)]}}
