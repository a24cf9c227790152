"""Shows the quality and cost of several attention settings on a trained model, as a Markdown table, and chooses one.

.venv/bin/python launch/selection_table.py MODEL TOKENS [--sequences N] [--sequence-length L] [--program build/hiptrain]
TOKENS: the prefix of a .bin/.idx pair, or a retrieval file (.safetensors), whose facts are counted too.
Each setting takes several minutes on a small machine; dense attention takes longest.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import yaml

MOST_LOSS = 1.003  # relative to the loss of dense attention
LEAST_FACTS = 0.97  # relative to the facts that dense attention finds
DEFAULTS = "**the defaults**"


class Result(NamedTuple):
    loss: float
    found: int  # number of facts found
    facts: int
    picked: float  # blocks per tile; 0 if there is no search
    recall: str  # "0.982 worst 0.914 (layer 12)"
    seconds: float
    by_layer: str  # a table

    def attended(self, attention):
        """Attended blocks per tile, with window and sinks: the cost of attention."""
        return self.picked + (attention["window"] + attention["sink_tokens"]) / attention["block_size"]


def settings_for(head_dim, published):
    """Returns (name, attention fields) of all rows, dense and the defaults first."""
    rows = [("dense", {"type": "dense"}), (DEFAULTS, {})]
    rows += [(f"{picks} pick{'s' * (picks > 1)}", {"picks": picks}) for picks in (1, 2, 3, 4)]
    rows += [(f"{name} of the dims in the index, {dims}", {"index_dims": dims})
             for name, dims in (("an eighth", head_dim // 8), ("a quarter", head_dim // 4), ("half", head_dim // 2),
                                ("all", head_dim)) if dims >= 2 and dims % 2 == 0]
    rows += [(f"window {window}", {"window": window}) for window in (512, 2048)]
    rows += [
        ("index keys in float8", {"index_dtype": "float8_e4m3"}),
        ("index keys in the layers' precision", {"index_dtype": "compute"}),
        ("the tree at every length", {"scan_tokens": 0}),
        ("one score for a group of heads", {"index_heads": "mean"}),
        ("sinks and window only", {"picks": 0}),
    ]
    if published:
        rows += [
            ("published, trailing queries, 16 blocks", {"selection": "published", "blocks": 16}),
            ("published, own tile's queries, 16 blocks (sees the future)",
             {"selection": "published_own_tile", "blocks": 16}),
        ]
    return rows


def head_dim_of(model):
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def set_words(common, fields):
    """Converts settings to arguments; the fields of a row take precedence."""
    settings = common | {f"attention.{field}": value for field, value in fields.items()}
    return [word for field, value in settings.items() for word in ("--set", f"{field}={value}")]


def attention_of(program, common):
    """Returns the attention section of the config, with the program's defaults for what is not set."""
    command = [program, "config", *set_words(common, {})]
    return yaml.safe_load(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["attention"]


def evaluate(program, model, data, sequences, settings):
    """Returns the result, or None if the program rejects these settings."""
    command = [program, "evaluate", "--model", model, "--data", data, "--sequences", str(sequences), "--by-layer"]
    command += settings
    started = time.monotonic()
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode != 0:
        print(f"skipped: {' '.join(command)}\n{finished.stderr.strip()}", file=sys.stderr)
        return None
    output = finished.stdout
    facts = re.search(r"^retrieval \S+ \((\d+) of (\d+) facts\)", output, re.M)
    picked = re.search(r"picked blocks a tile: (\S+) mean", output)
    recall = re.search(r": recall (\S+ worst .*?);", output)
    by_layer = re.search(r"^layer +recall.*\n(?: *\d+ .*\n)+", output, re.M)
    return Result(loss=float(re.search(r"^loss (\S+)", output, re.M).group(1)),
                  found=int(facts.group(1)) if facts else 0, facts=int(facts.group(2)) if facts else 0,
                  picked=float(picked.group(1)) if picked else 0, recall=recall.group(1) if recall else "",
                  seconds=time.monotonic() - started, by_layer=by_layer.group(0) if by_layer else "")


def is_good(result, dense):
    return result.loss <= MOST_LOSS * dense.loss and result.found >= LEAST_FACTS * dense.found


def choice_text(results, dense, attention):
    """Chooses a row. results: (name, fields, result); attention: the settings that a row does not change."""
    rule = (f"the fewest attended blocks a tile (picked, window and sinks) with at most {100 * (MOST_LOSS - 1):.1f}% "
            f"more loss than dense" + (f" and {LEAST_FACTS:g} of its facts" if dense.facts else ""))
    good = [(result.attended(attention | fields), name, fields) for name, fields, result in results
            if is_good(result, dense) and "selection" not in fields]
    if not good:
        return f"take none of these; rule: {rule}. Try more picks, more index dims and a larger window together."
    attended, name, fields = min(good, key=lambda row: row[0])
    to_set = ", ".join(f"attention.{field}: {value}" for field, value in fields.items()) or "nothing to set"
    return f"take {name.strip('*')} ({to_set}), {attended:.1f} attended blocks per tile; rule: {rule}"


def row_text(name, result, dense):
    cells = [name, f"{result.loss:.4f}", "" if result is dense else f"{100 * (result.loss / dense.loss - 1):+.2f}%"]
    if dense.facts:
        cells.append(f"{result.found} of {result.facts}")
    cells += [f"{result.picked:.1f}" if result.picked else "", result.recall, f"{result.seconds:.0f}"]
    return "| " + " | ".join(cells) + " |"


def results_of(arguments, common, attention):
    """Yields (name, fields, result) of every row, dense and the defaults first; stops if dense fails."""
    for name, fields in settings_for(head_dim_of(arguments.model), arguments.published):
        is_default = name != DEFAULTS and fields.items() <= attention.items()
        if name not in ("dense", DEFAULTS) and (is_default or arguments.only not in name):
            continue
        result = evaluate(arguments.program, arguments.model, arguments.data, arguments.sequences,
                          set_words(common, fields))
        if result is not None:
            yield name, fields, result
        elif name == "dense":
            return


def print_table(arguments, common):
    """Prints the table; returns False if there is nothing to print."""
    attention = attention_of(arguments.program, common)
    dense, results = None, []
    for name, fields, result in results_of(arguments, common, attention):
        if dense is None:
            dense = result
            header = ["attention", "loss", "against dense", *["facts found"] * bool(dense.facts), "picked blocks a tile",
                      "recall, mean and worst layer", "seconds"]
            print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
        else:
            results.append((name, fields, result))
        print(row_text(name, result, dense), flush=True)
    for name, _, result in results:
        if name == DEFAULTS and result.by_layer:
            print(f"\nRecall of the defaults by layer:\n\n```text\n{result.by_layer}```")
    if dense is not None:
        print("\n" + choice_text(results, dense, attention))
    return dense is not None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", metavar="TOKENS")
    parser.add_argument("--sequences", type=int, default=0, help="number of sequences (all)")
    parser.add_argument("--sequence-length", type=int, help="for token files; a retrieval file has its own")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="for all rows that do not set it themselves, e.g. attention.window=512; repeatable")
    parser.add_argument("--program", default="build/hiptrain")
    parser.add_argument("--only", default="", help="run only settings whose name contains this, dense and the defaults")
    parser.add_argument("--published", action="store_true", help="add the paper's selection (slow, CPU only)")
    arguments = parser.parse_args()
    common = {"precision": "float32"}
    if arguments.sequence_length:
        common["data.sequence_length"] = str(arguments.sequence_length)
    common.update(setting.split("=", 1) for setting in arguments.set)
    return 0 if print_table(arguments, common) else 1


if __name__ == "__main__":
    sys.exit(main())
