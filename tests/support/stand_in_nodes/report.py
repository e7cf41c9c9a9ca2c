"""What a test wants to know of a latent, to the bit."""

import hashlib
import json


class StandInReport:
    """Shows shape, digest and finiteness of a latent as text; `run` makes one run's report another than the next's."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"latent": ("LATENT",), "run": ("INT", {"default": 0})}})
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "report"
    CATEGORY = "tests"

    def report(self, latent, run):
        samples = latent["samples"]
        parts = samples.unbind() if samples.is_nested else [samples]
        digest = hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()
        told = {
            "shapes": [list(part.shape) for part in parts],
            "finite": all(bool(part.isfinite().all()) for part in parts),
            "spread": min(float(part.std()) for part in parts),
            "digest": digest,
        }
        return {"ui": {"report": [json.dumps(told)]}}
