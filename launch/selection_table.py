"""What attention settings cost a trained model: loss and retrieval of each, as a Markdown table.

.venv/bin/python launch/selection_table.py MODEL RETRIEVAL.safetensors [--sequences N] [--program build/hiptrain]
Several minutes a setting on a small machine; dense attention takes longest.
"""

import argparse
import re
import subprocess
import time

SETTINGS = [
    ("dense", ["type=dense"]),
    ("**ours: 2 picks, 32 dims (default)**", []),
    ("the tree at every length, beam 8 (default)", ["scan_tokens=0"]),
    ("the tree, beam 2, 4 top nodes", ["scan_tokens=0", "beam=2", "top_nodes=4"]),
    ("4 picks", ["picks=4"]),
    ("1 pick", ["picks=1"]),
    ("window 1024", ["window=1024"]),
    ("window 256", ["window=256"]),
    ("16 index dims", ["index_dims=16"]),
    ("8 index dims", ["index_dims=8"]),
    ("all 64 dims in the index", ["index_dims=64"]),
    ("index keys in float8", ["index_dtype=float8_e4m3"]),
    ("sinks and window only", ["picks=0"]),
    ("published, trailing queries, 16 blocks", ["selection=published", "blocks=16"]),
    ("published, own tile's queries, 16 blocks (sees the future)", ["selection=published_own_tile", "blocks=16"]),
]


def evaluate(program, model, data, sequences, settings):
    """(loss, retrieval, blocks a tile, seconds)"""
    command = [program, "evaluate", "--model", model, "--data", data, "--sequences", str(sequences),
               "--set", "precision=float32", "--set", "attention.window=512"]
    for setting in settings:
        command += ["--set", f"attention.{setting}"]
    started = time.monotonic()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    blocks = re.search(r"picked blocks a tile: (\S+) mean", output)
    return (float(re.search(r"^loss (\S+)", output, re.M).group(1)),
            float(re.search(r"^retrieval (\S+)", output, re.M).group(1)),
            blocks.group(1) if blocks else "", time.monotonic() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--sequences", type=int, default=0, help="0: all")
    parser.add_argument("--program", default="build/hiptrain")
    parser.add_argument("--only", default="", help="settings whose name contains this; dense always runs")
    arguments = parser.parse_args()
    print("| attention | loss | against dense | retrieval | picked blocks a tile | seconds |\n|---|---|---|---|---|---|")
    dense = None
    for name, settings in SETTINGS:
        if dense is not None and arguments.only not in name:
            continue
        loss, retrieval, blocks, seconds = evaluate(arguments.program, arguments.model, arguments.data,
                                                    arguments.sequences, settings)
        dense = dense or loss
        print(f"| {name} | {loss:.4f} | {100 * (loss / dense - 1):+.2f}% | {retrieval:.3f} | {blocks} | {seconds:.0f} |",
              flush=True)


if __name__ == "__main__":
    main()
