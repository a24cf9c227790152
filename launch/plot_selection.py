"""Plots the quality of a selection: recall by layer and KV head, list lengths by position, one head's attention.

hiptrain evaluate --model MODEL --data TOKENS --selection selection.safetensors
python launch/plot_selection.py selection.safetensors [--output selection.png]
For a run's output_dir it plots the last measured recall by layer and head, and the mean list lengths by layer.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt  # noqa: E402
import numpy  # noqa: E402
from matplotlib.colors import LogNorm  # noqa: E402
from matplotlib.ticker import MultipleLocator  # noqa: E402
from safetensors import safe_open  # noqa: E402

from plot_run import short_count  # noqa: E402
from run_metrics import metrics_path, read_run  # noqa: E402

MOST_COLUMNS = 512  # in the picture of one head's attention
LEAST_MASS = 1e-5  # smaller shares of a row are drawn as zero


class Selection(NamedTuple):
    name: str
    layers: list  # layer numbers of the rows of recall
    recall: numpy.ndarray  # (layers, KV heads)
    mean_lengths: numpy.ndarray = None  # (layers): picked blocks per tile
    # (layers, positions): the same by position in the document; NaN where there is no tile
    list_lengths: numpy.ndarray = None
    sequence_length: int = 0
    attention: numpy.ndarray = None  # (rows, searched blocks): attention mass
    first_rows: numpy.ndarray = None  # (searched blocks): first row that attends to the block; 64 or more if none does
    numbers: dict = {}  # layer, query_head, begin, block_size and first_block of attention


def set_key_ticks(axis, keys):
    """Returns about six round numbers of tokens for an axis."""
    axis.set_major_locator(MultipleLocator(2 ** max(0, round(math.log2(max(keys, 6) / 6)))))
    axis.set_major_formatter(lambda value, _: short_count(round(value)))


def read_file(path):
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        numbers = {name: int(value) for name, value in file.metadata().items() if value.isdigit()}
    if "recall" not in tensors:
        raise SystemExit(f"{path}: it has no recall; give a file of hiptrain evaluate --selection, or a run's output_dir")
    searched = numpy.flatnonzero(~numpy.isnan(tensors["recall"]).all(axis=1))
    return Selection(path.stem, list(searched), tensors["recall"][searched],
                     list_lengths=tensors["list_lengths"][searched], sequence_length=numbers["sequence_length"],
                     attention=tensors.get("attention"), first_rows=tensors.get("first_rows"), numbers=numbers)


def read_last_of_run(run):
    measured = [record["recall"] for record in read_run(run).train if "recall" in record]
    if not measured:
        raise SystemExit(f"{run}: recall was not measured in this run; see metrics.recall_every")
    layers = measured[-1]["layers"]
    return Selection(metrics_path(run).parent.name, [layer["layer"] for layer in layers],
                     numpy.array([layer["kv_head_recall"] for layer in layers], dtype=float),
                     numpy.array([layer["list_entries"] for layer in layers]))


def draw_recall(figure, axes, selection):
    image = axes.imshow(selection.recall.T, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto", interpolation="nearest")
    step = -(-len(selection.layers) // 16)
    axes.set_xticks(range(0, len(selection.layers), step), selection.layers[::step])
    axes.set_yticks(range(selection.recall.shape[1]))
    axes.set(title=f"recall: mean {numpy.nanmean(selection.recall):.3f}, worst {numpy.nanmin(selection.recall):.3f}",
             xlabel="layer", ylabel="KV head (its worst query head)")
    figure.colorbar(image, ax=axes, label="share of the mass beyond sinks and window")


def draw_lengths(axes, selection):
    axes.grid(alpha=0.3)
    axes.set_ylabel("picked blocks a tile")
    if selection.list_lengths is None:
        axes.bar(selection.layers, selection.mean_lengths)
        axes.set(title="list lengths by layer", xlabel="layer")
        return
    places = selection.list_lengths.shape[1]
    positions = (numpy.arange(places) + 0.5) * selection.sequence_length / places
    colors = plt.get_cmap("viridis")(numpy.linspace(0, 1, len(selection.layers)))
    for layer, lengths, color in zip(selection.layers, selection.list_lengths, colors):
        labelled = layer in (selection.layers[0], selection.layers[-1])
        axes.plot(positions, lengths, color=color, linewidth=1, label=f"layer {layer}" if labelled else None)
    set_key_ticks(axes.xaxis, selection.sequence_length)
    axes.set(title="list lengths by position", xlabel="position in the document")
    axes.legend(fontsize="small")


def folded(values, columns, fold):
    """Combines neighbouring blocks: (..., blocks) -> (..., columns)."""
    starts = numpy.arange(columns) * values.shape[-1] // columns
    return fold.reduceat(values, starts, axis=-1)


def draw_attention(figure, axes, selection):
    if selection.attention is None:
        axes.text(0.5, 0.5, "written by hiptrain evaluate --selection", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    numbers, (rows, blocks) = selection.numbers, selection.attention.shape
    columns = min(blocks, MOST_COLUMNS)
    mass = folded(selection.attention, columns, numpy.add)
    seen = selection.first_rows[None] <= numpy.arange(rows)[:, None]
    first_key, last_key = (numbers["block_size"] * (numbers["first_block"] + block) for block in (0, blocks))
    # The upper half shows what each row attends to, the lower half the part that the picked blocks cover.
    picked = folded(selection.attention * seen, columns, numpy.add)
    image = axes.imshow(numpy.concatenate([mass, picked]).clip(LEAST_MASS), norm=LogNorm(LEAST_MASS, 1), cmap="magma",
                        aspect="auto", interpolation="nearest", extent=(first_key, last_key, 2 * rows, 0))
    axes.axhline(rows, color="white", linewidth=1)
    axes.set_yticks([rows / 2, 1.5 * rows], ["exact", "picked"], rotation=90, va="center")
    set_key_ticks(axes.xaxis, last_key - first_key)
    beyond = selection.attention.sum()
    axes.set(title=f"layer {numbers['layer']}, query head {numbers['query_head']}, rows from {numbers['begin']}: "
                   f"{(selection.attention * seen).sum() / max(beyond, 1e-30):.2f} of {beyond / rows:.3f} covered",
             xlabel="key between sinks and window")
    figure.colorbar(image, ax=axes, label="mass of a row")


def draw(selection, output):
    figure, axes = plt.subplots(1, 3, figsize=(18, 5), layout="constrained")
    figure.suptitle(selection.name)
    draw_recall(figure, axes[0], selection)
    draw_lengths(axes[1], selection)
    draw_attention(figure, axes[2], selection)
    figure.savefig(output, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("selection", type=Path, help="file of evaluate --selection, or a run's output_dir")
    parser.add_argument("--output", type=Path, help="PNG to write (selection.png beside the input)")
    arguments = parser.parse_args()
    if arguments.selection.suffix == ".safetensors":
        selection = read_file(arguments.selection)
        output = arguments.output or arguments.selection.with_suffix(".png")
    else:
        selection = read_last_of_run(arguments.selection)
        output = arguments.output or metrics_path(arguments.selection).parent / "selection.png"
    draw(selection, output)
    print(output)


if __name__ == "__main__":
    main()
