"""Writes tests/bench/RESULTS.md from the figures in tests/bench/results.

.venv/bin/python tests/bench/make_results.py [--check] [--results FOLDER --notes FILE --output FILE]
With --check it writes nothing; the exit code is 1 if the page differs from what the figures give.
"""

import argparse
import sys
from pathlib import Path

from bench_records import BENCH, NOT_RECORDED, model_name, read_dense_trainers, read_records

GIB = 1 << 30
OPENING = """# Results

This page is generated from the JSON files in [results](results) by `tests/bench/make_results.py`. Please do not edit it.
"Not recorded" means that neither the file nor [results_notes.json](results_notes.json) has it: the programs of version
0.1.0 wrote no date, version or command into their figures. The date of such a file is the day on which it was
committed. A machine that the file does not name is taken from the file's name.

All training steps are full fine-tuning with AdamW on random weights and random tokens, with float32 optimizer state
and bfloat16 weights. Everything about memory is left to `auto` where a file's name does not say otherwise. The random
data give block lists at least as long as those of a trained model.
"""
PARTS = ["projections and MLP", "attention backward", "attention forward", "search", "norms, rotary, SwiGLU", "loss",
         "waiting for host copies"]


def table(header, rows):
    """Returns a Markdown table, or nothing without rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def link(record):
    return f"[{record.name}](results/{record.name}.json)"


def gib(number):
    return f"{number / GIB:.1f}"


def compared(record, name):
    return record.figures["comparison"].get(name, {})


def measured(record, name, digits):
    number = compared(record, name).get("measured")
    return NOT_RECORDED if number is None else f"{number:.{digits}f}"


def layer_inputs(plan):
    """Describes recompute, tiles and what is offloaded to host memory."""
    cut = f"segments of {plan['recompute_interval']}"
    if plan["recompute_interval"] > 1 and plan.get("recompute_last_layers", 0) > plan["recompute_interval"]:
        cut += f", last {plan['recompute_last_layers']} kept"
    if plan.get("recompute_from_start"):
        cut += " from the start"
    return f"{cut}; {plan['device_inputs']}, {plan['host_inputs']}"


def offloaded(plan):
    return ", ".join(name for name in ("optimizer", "gradients", "weights") if plan[f"offload_{name}"]) or "nothing"


def step_table(records):
    header = ["figures", "model", "tokens", "GPUs", "tokens/s a GPU", "MFU", "blocks a tile", "layer inputs: GPU, host",
              "offloaded", "GPU tensors, GiB", "host, GiB"]
    rows = []
    for record in sorted(records, key=lambda r: (r.figures["ranks"], model_name(r), r.figures["tokens"], r.name)):
        figures = record.figures
        lists = figures.get("rank_list_entries", [figures["mean_list_entries"]])
        blocks = sorted({f"{number:.1f}" for number in lists}, key=float)
        rows.append([link(record), model_name(record), f"{figures['tokens']:,}", figures["ranks"],
                     f"**{figures['tokens_per_s'] / figures['ranks']:,.0f}**", f"{figures['mfu']:.0%}", " to ".join(blocks),
                     layer_inputs(figures["plan"]), offloaded(figures["plan"]),
                     measured(record, "GPU memory of tensors, GiB", 1), measured(record, "host memory, GiB", 1)])
    return table(header, rows)


def share_table(records):
    rows = []
    for record in records:
        seconds, step = record.figures["part_seconds"], record.figures["step_seconds"]
        shares = [seconds.get(part, 0.0) / step for part in PARTS]
        exchanges = [wait / step for wait in record.figures.get("rank_exposed_communication_seconds", [])]
        waits = f"{min(exchanges):.1%} to {max(exchanges):.1%}" if len(exchanges) > 1 else ""
        rows.append([link(record), f"{step:.2f}", *(f"{share:.1%}" for share in shares), waits])
    return table(["figures", "step, s", *PARTS, "waiting for exchanges"], rows)


def planned_cells(comparison):
    cells = []
    for name, digits in [("GPU memory of tensors, GiB", 2), ("host memory, GiB", 1), ("step, s", 2)]:
        numbers = comparison.get(name)
        if numbers is None:
            cells += [NOT_RECORDED, ""]
            continue
        planned, found = numbers["predicted"], numbers["measured"]
        cells += [f"{planned:.{digits}f}, {found:.{digits}f}", f"{planned / found - 1:+.1%}".replace("-0.0%", "+0.0%")]
    return cells


def plan_table(records, points):
    header = ["run", "GPU GiB: planned, measured", "", "host GiB: planned, measured", "", "step s: planned, measured", ""]
    rows = [[link(record), *planned_cells(record.figures["comparison"])] for record in records]
    for record in points:
        for point in record.figures:
            name = f"{link(record)}: {point['model'].removesuffix('.json')}, {point['tokens']:,}"
            rows.append([name, *planned_cells(point["comparison"])])
    return table(header, rows)


def attention_cells(length):
    ms = {measurement["name"]: 1e3 * measurement["seconds"] for measurement in length["measurements"]}
    forward, backward = ms.get("own search: forward", 0), ms.get("own search: backward", 0)
    layer = sum(time for name, time in ms.items() if name.startswith("own search: "))
    cells = [f"{length['tokens']:,}", f"{length['mean_list_blocks']['own']:.1f}", f"{layer - forward - backward:.1f}",
             f"{forward:.1f}", f"{backward:.1f}", f"{layer:,.1f}"]
    dense = sum(time for name, time in ms.items() if name.startswith("dense"))
    if not dense:
        return [*cells, "", ""]
    extrapolated = any(measurement["extrapolated"] for measurement in length["measurements"])
    return [*cells, f"{dense:,.0f}{' (extrapolated)' if extrapolated else ''}", f"{dense / layer:.1f}"]


def attention_table(records):
    rows = []
    for record in records:
        figures = record.figures
        shape = f"{figures['query_heads']}:{figures['kv_heads']} of {figures['head_dim']}"
        rows += [[link(record), shape, *attention_cells(length)] for length in figures["lengths"]]
    return table(["figures", "heads", "tokens", "blocks a tile", "search, ms", "forward", "backward", "in all",
                  "dense cuDNN, ms", "times"], rows)


def loss_table(records):
    rows = []
    for record in records:
        for loss in record.figures["losses"]:
            rows.append([link(record), loss["model"], f"{loss['tokens']:,}", f"{loss['dense_loss']:.4f}",
                         f"{loss['loss_difference_percent']:+.2f}%", f"{loss['dense_facts']:,} of {loss['facts']:,}",
                         f"{loss['found_facts']:,}", loss["blocks_a_tile"]])
    return table(["figures", "model", "tokens", "loss, dense", "loss, hiptrain", "facts, dense", "facts, hiptrain",
                  "blocks a tile"], rows)


def communication_table(records):
    rows = []
    for record in records:
        for result in record.figures["results"]:
            rows.append([link(record), record.figures["ranks"], result["name"], f"{result['bytes'] / (1 << 20):,.0f} MiB",
                         f"{result['link_bytes_per_s'] / 1e9:,.0f} GB/s"])
    return table(["figures", "ranks", "collective", "bytes of the whole", "a rank sends"], rows)


def kernel_table(records):
    rows = []
    for record in records:
        for figure in record.figures["measurements"]:
            rows.append([link(record), figure["kernel"], figure["shape"], f"{1e3 * figure['seconds']:.3f}",
                         f"{figure['bytes_per_s'] / 1e9:,.0f}", f"{figure['of_copy']:.0%}"])
    return table(["figures", "kernel", "shape", "ms", "GB/s", "of a copy's rate"], rows)


def dense_table():
    rows = []
    for trainer in read_dense_trainers():
        points = ", ".join(f"{tokens:,}: {speed:,}" for tokens, speed in trainer["points"])
        source = trainer["url"] + (f"; {trainer['note']}" if "note" in trainer else "")
        rows.append([trainer["name"], trainer["model"], trainer["machine"], trainer["published"], points, source])
    header = ["trainer", "model", "machine", "published", "tokens a sequence: tokens/s a GPU", "source"]
    return table(header, rows)


def source_table(records):
    rows = []
    for record in records:
        command = record.command if record.command == NOT_RECORDED else f"`{record.command}`"
        selection = record.notes.get("selection")
        remarks = " ".join(filter(None, [f"{selection}." if selection else "", record.notes.get("note")]))
        rows.append([link(record), record.date, record.version, record.machine, command, remarks])
    return table(["figures", "date", "version", "machine", "command", "selection, remarks"], rows)


def sections(records):
    """Returns the sections: (title, sentence below it, tables)."""
    def of(kind, superseded=None):
        return [record for record in records if record.kind == kind and superseded in (None, record.superseded)]

    steps, old_steps = of("train", False), of("train", True)
    yield "Training steps", "", [step_table(steps), share_table(steps)]
    yield ("Loss beside dense attention",
           "Untouched pretrained weights; [selection.md](../../kernels/selection.md) has all settings.",
           [loss_table(of("loss"))])
    yield ("One layer's attention", "Search, forward and backward pass of one layer, `hiptrain bench attention`.",
           [attention_table(of("attention", False))])
    yield ("Dense trainers, as published",
           "Figures of others, at the lengths that they give. Machines differ: compare orders of magnitude.",
           [dense_table()])
    yield "Communication", "", [communication_table(of("communication"))]
    yield ("Kernels outside attention",
           "`hiptrain bench kernels`: a kernel's bytes over its time, beside a copy on the same GPU.",
           [kernel_table(of("kernels"))])
    yield ("History: the selection by the mean query",
           "Until 2026-11-30 a block's score was that of the mean of a group's queries, with two picks a token. That selection\n"
           "is faster, but it fails on pretrained models, so these figures are not those of the defaults.",
           [step_table(old_steps), share_table(old_steps), attention_table(of("attention", True))])
    yield ("Planned and measured",
           "Memory and time by `hiptrain plan`, beside the run. Planned times use the rates that were shipped on the day of\n"
           "the run. [The planner's page](../../trainer/planner/README.md) explains them.",
           [plan_table(of("train"), of("plan"))])
    yield "How each file was measured", "", [source_table(records)]


def page(records):
    text = OPENING
    for title, sentence, tables in sections(records):
        if any(tables):
            text += f"\n## {title}\n\n" + (f"{sentence}\n\n" if sentence else "") + "\n".join(filter(None, tables))
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the page is up to date")
    parser.add_argument("--results", type=Path, default=BENCH / "results")
    parser.add_argument("--notes", type=Path, default=BENCH / "results_notes.json")
    parser.add_argument("--output", type=Path, default=BENCH / "RESULTS.md")
    arguments = parser.parse_args()
    text = page(read_records(arguments.results, arguments.notes))
    if not arguments.check:
        arguments.output.write_text(text, encoding="utf-8")
        return
    if not arguments.output.is_file() or arguments.output.read_text(encoding="utf-8") != text:
        sys.exit(f"{arguments.output} is stale: run tests/bench/make_results.py")
    print(f"{arguments.output} is up to date")


if __name__ == "__main__":
    main()
