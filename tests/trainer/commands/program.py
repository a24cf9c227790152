"""Finds the program under test: $HIPTRAIN_BUILD/hiptrain; without that variable, build/hiptrain."""

import os
import re
import shlex
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = Path(os.environ.get("HIPTRAIN_BUILD", ROOT / "build")) / "hiptrain"


def on_ranks(words, ranks):
    """Returns the command that runs these words on one or more ranks."""
    if ranks == 1:
        return list(words)
    return ["bash", str(ROOT / "launch" / "mpirun.sh"), "--oversubscribe", "-np", str(ranks), *words]


def expect_provenance(provenance, words):
    """Checks the record of who wrote a file: this program, within the last hour, on a CPU, started with these words."""
    assert list(provenance) == ["version", "commit", "date", "gpu", "driver", "command"]
    assert f"project(hiptrain VERSION {provenance['version']} " in (ROOT / "CMakeLists.txt").read_text()
    assert re.fullmatch(r"[0-9a-f]{12,}(\+changes)?|unknown", provenance["commit"])
    written = datetime.strptime(provenance["date"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    assert -2 < (datetime.now(timezone.utc) - written).total_seconds() < 3600
    assert provenance["gpu"] is None and provenance["driver"] is None
    assert shlex.split(provenance["command"]) == [str(word) for word in [PROGRAM, *words]]
