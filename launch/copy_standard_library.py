"""Copies the longest source files of Python's standard library, a real text that every machine with Python has.

python launch/copy_standard_library.py OUTPUT_FOLDER [--megabytes 4]
Writes most files to OUTPUT_FOLDER/train/*.txt and every twelfth to OUTPUT_FOLDER/held_out/*.txt.
"""

import argparse
import shutil
import sysconfig
from pathlib import Path

NOT_OURS = {"site-packages", "dist-packages", "__pycache__", "idlelib", "turtledemo"}
HELD_OUT_EVERY = 12


def longest_sources(num_bytes):
    """Returns paths of num_bytes in total, longest first. The result is the same for the same Python."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = [path for path in library.rglob("*.py") if not NOT_OURS & set(path.relative_to(library).parts)]
    sources.sort(key=lambda path: (-path.stat().st_size, str(path)))
    chosen, size = [], 0
    for path in sources:
        if size >= num_bytes:
            break
        chosen.append((path, "_".join(path.relative_to(library).with_suffix(".txt").parts)))
        size += path.stat().st_size
    return chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--megabytes", type=float, default=4)
    arguments = parser.parse_args()
    for part in ("train", "held_out"):
        shutil.rmtree(arguments.output / part, ignore_errors=True)
        (arguments.output / part).mkdir(parents=True)
    chosen = longest_sources(int(arguments.megabytes * 1e6))
    for number, (path, name) in enumerate(chosen):
        part = "held_out" if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train"
        shutil.copyfile(path, arguments.output / part / name)
    size = sum(path.stat().st_size for path, _ in chosen)
    print(f"{arguments.output}: {len(chosen)} files, {size / 1e6:.1f} MB, the longest {chosen[0][0].stat().st_size} bytes")


if __name__ == "__main__":
    main()
