"""Real text that every machine with Python has: the sources of the standard library."""

import os
from pathlib import Path


def library_text(num_characters: int) -> str:
    text = ""
    for file in sorted(Path(os.__file__).parent.glob("*.py")):
        text += file.read_text(encoding="utf-8", errors="replace")
        if len(text) >= num_characters:
            return text[:num_characters]
    raise RuntimeError("Python's standard library is smaller than expected")
