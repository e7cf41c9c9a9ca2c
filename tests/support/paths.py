"""Where the project's files are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "weights" / "tiny-sd35"
HARD = ROOT / "weights" / "tiny-sd35-hard"
