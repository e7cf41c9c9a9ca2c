"""A node pack of the tests alone: small networks (`support.zoo`) in the places of the files that a workflow would load.

The test server loads it beside the real pack. Nothing is imported from the zoo before a node runs.
"""

import sys
from pathlib import Path

TESTS = str(Path(__file__).resolve().parents[2])
if TESTS not in sys.path:
    sys.path.append(TESTS)

from .loaders import (  # noqa: E402
    StandInCheckpoint,
    StandInCLIP,
    StandInLora,
    StandInModel,
    StandInSDXL,
    StandInUpscaler,
    StandInVAE,
)
from .report import StandInReport  # noqa: E402

NODES = (
    *(StandInCheckpoint, StandInCLIP, StandInLora, StandInModel, StandInReport, StandInSDXL, StandInUpscaler),
    StandInVAE,
)
NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODES}
