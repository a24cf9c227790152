"""Draws the figure of the README from the results in tests/bench: tokens/s by length, and loss beside dense attention.

.venv/bin/python tests/bench/plot_results.py [--output tests/bench/results.svg]
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "hiptrain", "font.size": 9})
import matplotlib.pyplot as plt  # noqa: E402

from bench_records import BENCH, model_name, read_dense_trainers, read_records  # noqa: E402

MODELS = {"llama-3.1-8b": ("Llama 3.1 8B", "tab:blue"), "llama-3.2-1b": ("Llama 3.2 1B", "tab:orange")}
DENSE_COLORS = {"8B": "tab:blue", "1B": "tab:orange"}
MARKERS = {"torchtitan": "s", "NeMo": "^", "ml_dataflow": "D", "TRL": "v"}
LIMIT = 0.3  # percent; the limit for the default settings, see kernels/selection.md


def short_count(number):
    return f"{number >> 20}M" if number >= 1 << 20 else f"{number >> 10}K"


def speeds(records, model):
    """Returns (tokens, tokens/s) on one GPU with the default selection: the latest result of each length."""
    steps = [r for r in records if r.kind == "train" and not r.superseded and model_name(r) == model]
    steps = [r for r in steps if r.figures["ranks"] == 1]
    latest = {r.figures["tokens"]: r.figures["tokens_per_s"] for r in sorted(steps, key=lambda r: r.date.split()[-1])}
    return sorted(latest.items())


def draw_speed(axes, records):
    for model, (name, color) in MODELS.items():
        points = speeds(records, model)
        if points:
            axes.plot(*zip(*points), "o-", color=color, linewidth=2, markersize=7, label=f"hiptrain, {name}, one H200")
    for trainer in read_dense_trainers():
        axes.plot(*zip(*trainer["points"]), MARKERS[trainer["name"]] + "--", color=DENSE_COLORS[trainer["size"]],
                  markerfacecolor="white", linewidth=1,
                  label=f"dense: {trainer['name']}, {trainer['model']}, {trainer['gpus']}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lengths = [1 << power for power in range(15, 21)]
    axes.set_xticks(lengths, [short_count(length) for length in lengths])
    axes.set(title="training speed by length", xlabel="tokens of a sequence", ylabel="tokens/s and GPU", ylim=(200, 100000))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def draw_loss(axes, records):
    losses = [loss for r in records if r.kind == "loss" for loss in r.figures["losses"]]
    names = [f"{loss['model']}, {short_count(loss['tokens'])} tokens\n"
             f"facts found: {loss['found_facts']:,}, dense {loss['dense_facts']:,}" for loss in losses]
    values = [loss["loss_difference_percent"] for loss in losses]
    bars = axes.barh(range(len(losses)), values, color="tab:green", height=0.5)
    axes.bar_label(bars, [f"{value:+.2f}%" for value in values], padding=3)
    axes.axvline(LIMIT, color="gray", linestyle="--", linewidth=1)
    axes.text(LIMIT, -0.75, "our limit ", ha="right", va="center", color="gray", fontsize=8)
    axes.set_yticks(range(len(losses)), names)
    axes.set(title="loss beside dense attention", xlabel="percent above dense attention, weights untouched",
             xlim=(0, 0.4), ylim=(len(losses) - 0.4, -1))
    axes.grid(alpha=0.3, axis="x")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=BENCH / "results.svg")
    arguments = parser.parse_args()
    records = read_records()
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", width_ratios=[1.25, 1])
    draw_speed(axes[0], records)
    draw_loss(axes[1], records)
    figure.savefig(arguments.output, metadata={"Date": None})
    print(arguments.output)


if __name__ == "__main__":
    main()
