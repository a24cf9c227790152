"""Compares predicted with measured memory and step time, as a Markdown table.

.venv/bin/python launch/compare_plan.py [--program build/hiptrain] [--rates FILE] [--json FILE] [--only TEXT] [NAME=VALUE ...]
Runs `hiptrain bench train` on every point below, on a GPU; NAME=VALUE are passed as --set to all of them. The exit code
is 1 if a point fails or if a prediction is off by more than 3% for memory (for host memory: 3% or 256 MiB, because
libraries differ between machines) or 15% for time.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "configs" / "models"
MEMORY_TARGET, TIME_TARGET = 0.03, 0.15
KEPT = {"recompute.interval": 1, "offload.layer_inputs": 0, "offload.optimizer": "false", "offload.gradients": "false",
        "offload.weights": "false", "memory.query_tile": 65536, "memory.token_tile": 16384, "memory.loss_tile": 4096}
SHORT_STATE = {"optimizer.state_dtype": "bfloat16", "optimizer.master_weights": "false"}


def placed(interval, offloaded=(), layer_inputs=0, **tiles):
    """Settings for which the planner has no choice left, so that the points do not change when the planner does."""
    return KEPT | {"recompute.interval": interval, "offload.layer_inputs": layer_inputs} | \
        {f"offload.{name}": "true" for name in offloaded} | {f"memory.{name}": tokens for name, tokens in tiles.items()}


# (model, tokens, settings): every feature of the memory engine, at lengths that take seconds.
POINTS = [
    ("llama-3.2-1b", 65536, placed(1)),
    ("llama-3.2-1b", 131072, placed(1, token_tile=4096, loss_tile=1024)),
    ("llama-3.2-1b", 262144, placed(2, layer_inputs=4)),
    ("llama-3.2-1b", 131072, placed(4, ["optimizer"])),
    ("qwen3-0.6b", 262144, placed(1, ["gradients"], layer_inputs=8)),
    ("qwen3-0.6b", 131072, placed(2, ["optimizer", "gradients", "weights"])),
    ("qwen3-8b", 32768, placed(1) | SHORT_STATE),
    ("llama-3.1-8b", 65536, placed(4, layer_inputs=2) | SHORT_STATE),
    ("llama-3.1-8b", 65536, placed(2, ["gradients"]) | SHORT_STATE),
]


def short(settings):
    """The settings that differ from the usual ones."""
    return ", ".join(f"{name} {value}" for name, value in settings.items() if KEPT.get(name) != value)


def measure(options, model, tokens, settings):
    """Returns the figures of the benchmark. If it failed, prints why and returns None."""
    with tempfile.NamedTemporaryFile(suffix=".json") as figures:
        command = [options.program, "bench", "train", "--model-config", str(MODELS / f"{model}.json"),
                   "--tokens", str(tokens), "--steps", "1", "--warm-up", "1", "--json", figures.name]
        if options.rates:
            command += ["--rates", options.rates]
        for setting in [f"{name}={value}" for name, value in settings.items()] + options.settings:
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


def is_near(comparison, name, share, absolute=0.0):
    if name not in comparison:
        return False
    predicted, measured = comparison[name]["predicted"], comparison[name]["measured"]
    return abs(predicted - measured) <= max(share * measured, absolute)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--program", default="build/hiptrain")
    parser.add_argument("--rates", help="rates file of `hiptrain bench rates`")
    parser.add_argument("--json", help="file for the figures of all points")
    parser.add_argument("--only", default="", help="run only points whose model or settings contain this text")
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
        good &= is_near(comparison, "GPU memory of tensors, GiB", MEMORY_TARGET)
        good &= is_near(comparison, "host memory, GiB", MEMORY_TARGET, absolute=0.25)
        good &= is_near(comparison, "step, s", TIME_TARGET)
        all_figures.append({"settings": settings} | figures)
    if options.json:
        Path(options.json).write_text(json.dumps(all_figures, indent=2) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
