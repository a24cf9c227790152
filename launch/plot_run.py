"""Plots loss, tokens/s, learning rate and loss by position of one or more runs to a PNG.

python launch/plot_run.py runs/a [runs/b ...] [--output runs/a/metrics.png]
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt  # noqa: E402

from run_metrics import metrics_path, read_run, series  # noqa: E402


def short_count(number):
    """65536 -> 64K."""
    for unit, name in ((1 << 20, "M"), (1 << 10, "K")):
        if number >= unit:
            return f"{number / unit:g}{name}"
    return str(number)


def draw_steps(axes, runs, field, title):
    for run in runs:
        steps, values = series(run.train, field)
        axes.plot(steps, values, label=run.name, linewidth=1.5)
    axes.set(title=title, xlabel="step")
    axes.grid(alpha=0.3)


def draw_loss(axes, runs):
    draw_steps(axes, runs, "loss", "loss")
    for run, line in zip(runs, list(axes.get_lines())):
        steps, values = series(run.evaluations, "loss")
        axes.plot(steps, values, "o", color=line.get_color(), label=f"{run.name}, held out")
        for index, step in enumerate(run.resumed_steps):
            axes.axvline(step, color=line.get_color(), linestyle=":", label="resumed" if index == 0 else None)
    axes.set_ylabel("nats per token")
    axes.legend(fontsize="small")


def draw_loss_by_position(axes, runs):
    """Plots the last evaluation of each run, with equal distances between buckets."""
    axes.set(title="held-out loss by position", xlabel="position in the document", ylabel="nats per token")
    axes.grid(alpha=0.3)
    evaluated = [run for run in runs if run.evaluations]
    if not evaluated:
        axes.text(0.5, 0.5, "no evaluation in these runs", ha="center", transform=axes.transAxes)
        return
    places = sorted({(bucket["begin"], bucket["end"]) for run in evaluated for bucket in run.evaluations[-1]["buckets"]})
    for run in evaluated:
        buckets = run.evaluations[-1]["buckets"]
        axes.plot([places.index((bucket["begin"], bucket["end"])) for bucket in buckets],
                  [bucket["loss"] for bucket in buckets], "o-", label=run.name)
    axes.set_xticks(range(len(places)), [f"{short_count(begin)}-{short_count(end)}" for begin, end in places])


def draw(runs, output):
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    draw_loss(axes[0, 0], runs)
    draw_steps(axes[0, 1], runs, "tokens_per_s", "tokens/s")
    axes[0, 1].set_ylim(0, 1.1 * axes[0, 1].get_ylim()[1])
    draw_steps(axes[1, 0], runs, "lr", "learning rate")
    draw_loss_by_position(axes[1, 1], runs)
    figure.savefig(output, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="output_dir of a run, or its metrics.jsonl")
    parser.add_argument("--output", type=Path, help="PNG to write (metrics.png beside the first run's metrics)")
    arguments = parser.parse_args()
    runs = [read_run(run) for run in arguments.runs]
    output = arguments.output or metrics_path(arguments.runs[0]).parent / "metrics.png"
    draw(runs, output)
    print(output)


if __name__ == "__main__":
    main()
