"""Whether this checkout may be published under a tag: `python .ci/release.py v0.2.0`.

The tag is pyproject's version, the changelog has its date, and no URL is a placeholder any more.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "OWNER"


def faults(tag: str) -> list[str]:
    """What stands in the way, as sentences."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = tomllib.loads(text)["project"]["version"]
    found = []
    if tag != f"v{version}":
        found.append(f"The tag is {tag} and pyproject.toml's version {version}.")
    if PLACEHOLDER in text:
        found.append(f"pyproject.toml still has the placeholder {PLACEHOLDER}; put in publisher and repository.")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)}, \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE):
        found.append(f"CHANGELOG.md has no line `## {version}, year-month-day`.")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(faults(sys.argv[1])) or 0)
