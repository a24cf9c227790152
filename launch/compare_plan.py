"""The planner's word against the machine: predicted and measured memory and step time, as a Markdown table.

.venv/bin/python launch/compare_plan.py [--program build/hiptrain] [--rates FILE] [--json FILE] [--only TEXT] [NAME=VALUE ...]
Runs `hiptrain bench train` on every point below, on a GPU; NAME=VALUE are --set for all of them. Exit code 1 if a point is
further off than memory 3% or time 15%, or did not run.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "configs" / "models"
MEMORY_TARGET, TIME_TARGET = 0.03, 0.15
TILES = ["memory.query_tile=65536", "memory.token_tile=16384", "memory.loss_tile=4096"]
SHORT_STATE = ["optimizer.state_dtype=bfloat16", "optimizer.master_weights=false"]


def interval(layers):
    return [f"recompute.interval={layers}"]


# (model, tokens, settings)
POINTS = [
    ("llama-3.2-1b", 65536, TILES + interval(1)),
    ("llama-3.2-1b", 131072, ["memory.token_tile=4096", "memory.loss_tile=1024"] + interval(1)),
    ("llama-3.2-1b", 262144, TILES + interval(1)),
    ("llama-3.2-1b", 262144, TILES + interval(4)),
    ("llama-3.2-1b", 524288, TILES + interval(2)),
    ("qwen3-0.6b", 262144, TILES + interval(1)),
    ("qwen3-0.6b", 524288, TILES + interval(4)),
    ("llama-3.1-8b", 65536, TILES + interval(1) + SHORT_STATE),
    ("llama-3.1-8b", 131072, TILES + interval(4) + SHORT_STATE),
    ("qwen2.5-7b", 65536, TILES + interval(2) + SHORT_STATE),
]


def short(settings):
    return ", ".join(setting.split(".", 1)[1] for setting in settings)


def measure(options, model, tokens, settings):
    """The bench's figures; None, and why on the screen, if it failed."""
    with tempfile.NamedTemporaryFile(suffix=".json") as figures:
        command = [options.program, "bench", "train", "--model-config", str(MODELS / f"{model}.json"),
                   "--tokens", str(tokens), "--steps", "1", "--warm-up", "1", "--json", figures.name]
        if options.rates:
            command += ["--rates", options.rates]
        for setting in settings + options.settings:
            command += ["--set", setting]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            print(f"{model} {tokens}: exit code {result.returncode}: {result.stderr.strip()}", flush=True)
            return None
        return json.load(open(figures.name))


def row(model, tokens, settings, comparison):
    cells = [model, f"{tokens:,}", short(settings)]
    for name, digits in [("GPU memory of tensors, GiB", 2), ("host memory, GiB", 2), ("step, s", 3)]:
        if name not in comparison:
            cells += ["", ""]
            continue
        predicted, measured = comparison[name]["predicted"], comparison[name]["measured"]
        cells += [f"{predicted:.{digits}f} / {measured:.{digits}f}", f"{100 * (predicted / measured - 1):+.1f}%"]
    return "| " + " | ".join(cells) + " |"


def off_by(comparison, name):
    figures = comparison.get(name)
    return abs(figures["predicted"] / figures["measured"] - 1) if figures else float("inf")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--program", default="build/hiptrain")
    parser.add_argument("--rates", help="a file of `hiptrain bench rates`")
    parser.add_argument("--json", help="write every point's figures here")
    parser.add_argument("--only", default="", help="points whose model and settings contain this text")
    options = parser.parse_args()

    print("| model | tokens | settings | GPU GiB, plan / run | | host GiB | | step s | |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    all_figures, good = [], True
    for model, tokens, settings in POINTS:
        if options.only not in f"{model} {tokens} {short(settings)}":
            continue
        figures = measure(options, model, tokens, settings)
        if figures is None:
            good = False
            continue
        comparison = figures["comparison"]
        print(row(model, tokens, settings, comparison), flush=True)
        good &= off_by(comparison, "GPU memory of tensors, GiB") <= MEMORY_TARGET
        good &= off_by(comparison, "step, s") <= TIME_TARGET
        all_figures.append({"settings": settings} | figures)
    if options.json:
        Path(options.json).write_text(json.dumps(all_figures, indent=2) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
