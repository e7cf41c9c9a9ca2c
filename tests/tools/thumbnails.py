"""The pictures of workflows/, which the template browser shows: runs each workflow and draws a card of what it made.

    PYTHONPATH=tests python -m tools.thumbnails [name ...]

Needs a ComfyUI checkout (see `support.host`) and the package installed. Cards are square, as those of the template
browser are, legible at half their size, and empty in their top left corner, where the browser puts a badge. Pictures
are the embedded pipeline's; workflows whose models are not shipped have a chart of their timesteps, never a picture.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

from support.graph import to_prompt
from support.host import find_host
from support.paths import ROOT
from support.server import ComfyServer
from tools.cards_of_charts import CHARTS
from tools.cards_of_pictures import EMBEDDED

FOLDER = ROOT / "workflows"
QUALITY = 88


def main(names):
    cards = [name for name in (*EMBEDDED, *CHARTS) if not names or name in names]
    if unknown := set(names) - {*EMBEDDED, *CHARTS}:
        sys.exit(f"no such workflow: {', '.join(sorted(unknown))}")
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(Runner()) if EMBEDDED.keys() & set(cards) else None
        for name in cards:
            card = EMBEDDED[name](runner.run(name)) if name in EMBEDDED else CHARTS[name]()
            file = FOLDER / f"{name}.jpg"
            card.save(file, quality=QUALITY, optimize=True)
            print(f"{file.relative_to(ROOT)}: {card.width} × {card.height}, {file.stat().st_size / 1000:.0f} kB")


class Runner:
    """A server of its own, for as long as the workflows are run."""

    def __enter__(self):
        host = find_host()
        if host is None:
            sys.exit("no ComfyUI found: set COMFYUI_PATH")
        self.folder = tempfile.TemporaryDirectory()
        self.server = ComfyServer(host, Path(self.folder.name))
        self.server.start()
        self.info = self.server.object_info()
        return self

    def __exit__(self, *_):
        self.server.stop()
        self.folder.cleanup()

    def run(self, name):
        """Pictures by the node that made them, before anything puts them together: {class: [batch, batch, …]}."""
        prompt = to_prompt(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")), self.info)
        sources = {key: node["class_type"] for key, node in prompt.items() if node["class_type"] in SOURCES}
        for key, kind in sources.items():
            images = [key, SOURCES[kind]]
            prompt[f"{key} shown"] = {"class_type": "PreviewImage", "inputs": {"images": images}}
        entry = self.server.run(prompt)
        made = {}
        for key, kind in sources.items():
            made.setdefault(kind, []).append(self.server.images(entry, f"{key} shown"))
        settings = [node["inputs"] for node in prompt.values() if node["class_type"] == "AsyncDiffDeviationCurve"]
        return made | {"curve": settings, "tpm": self.server.models / "tpm"}


SOURCES = {"VAEDecode": 0, "AsyncDiffGammaSweep": 1, "AsyncDiffBestOfBatch": 0, "AsyncDiffPreviewRegions": 0}
"""Nodes whose pictures a card shows, and the output that has them."""


if __name__ == "__main__":
    main(sys.argv[1:])
