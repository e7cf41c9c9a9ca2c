"""Write docs/families.md: every model class of ComfyUI, what its network is told, and whether asynchrony holds there.

    COMFYUI_PATH=<checkout> python tests/tools/families.py

Nothing in the table is typed: each class is built small and sampled, and the checks of `support.zoo.contract` are run.
It takes about two minutes on one core.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "families.md"
HEAD = """# Model families

What asynchronous timesteps do in each model class of ComfyUI {version}. This page is made by
`python tests/tools/families.py`: a small network with random weights is built of every class, sampled, and checked.
So it says what a family does with its timestep, and nothing about the quality of its pictures.

- **Latent**: how many axes it has, with the batch. Nested latents have several parts.
- **Told**: what the family tells its network of the sampler's noise level (σ). In an asynchronous run the timestep that
  the model is told (t*) goes the same way.
- **Verdict**: *right* means that all of this holds. A run at strength γ = 0, or with deviation D = 0, gives the same
  bits as ComfyUI alone. The network is told exactly the family's own timestep of t*: for every image of a batch, and
  for every token where a mask asks for it. σ stays as it is for the sampler, for previews and for other nodes. A policy
  sees the run's own latent and velocity. A network that does not look at its timestep gives the synchronous result.
  *Right with conversion* says what the pack does so that this holds. *Refused* models give an error with this sentence
  before anything is sampled.

In families that are not flow matching, D does not act on σ but on a time u from 1 to 0: t*ₖ = uₖ + D·(uₖ − uₖ₋₁).

| Class | Latent | Told | Verdict |
| --- | --- | --- | --- |
"""


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from support.inside import enter

    core = enter()
    if isinstance(core, str):
        raise SystemExit(core)
    from support.zoo.verdicts import measured

    rows = [measured(entry) for entry in in_the_hosts_order()]
    PAGE.write_text(page(rows), encoding="utf-8")
    verdicts = [re.split("[:.]", row.verdict)[0] for row in rows]
    print(f"{PAGE}: " + ", ".join(f"{verdicts.count(kind)} {kind}" for kind in sorted(set(verdicts))))


def in_the_hosts_order():
    """The entries of the classes that this host knows, class by class."""
    import comfy.supported_models

    from support.zoo import ENTRIES

    order = [family.__name__ for family in comfy.supported_models.models]
    known = [entry for entry in ENTRIES.values() if entry.family in order]
    return sorted(known, key=lambda entry: order.index(entry.family))


def page(rows):
    import comfyui_version

    lines = [f"| {row.name} | {row.latent} | {row.told} | {row.verdict} |" for row in rows]
    return HEAD.format(version=comfyui_version.__version__) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
