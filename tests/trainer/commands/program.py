"""Finds the program under test: $HIPTRAIN_BUILD/hiptrain; without that variable, build/hiptrain."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = Path(os.environ.get("HIPTRAIN_BUILD", ROOT / "build")) / "hiptrain"


def on_ranks(words, ranks):
    """Returns the command that runs these words on one or more ranks."""
    if ranks == 1:
        return list(words)
    return ["bash", str(ROOT / "launch" / "mpirun.sh"), "--oversubscribe", "-np", str(ranks), *words]
