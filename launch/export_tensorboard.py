"""Writes TensorBoard event files from metrics.jsonl of one or more runs.

python launch/export_tensorboard.py runs/a [runs/b ...] [--output runs/tensorboard]
then: tensorboard --logdir runs/tensorboard
"""

import argparse
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from run_metrics import read_run

NOT_SCALARS = {"event", "step", "time", "last_step"}


def scalars_of(record):
    """Maps tags to the numbers of a record: train/loss, eval/loss_by_position/1024, train/recall/worst, ..."""
    prefix = record["event"]
    tags = {f"{prefix}/{field}": value for field, value in record.items()
            if field not in NOT_SCALARS and isinstance(value, (int, float)) and not isinstance(value, bool)}
    for bucket in record.get("buckets", []):
        tags[f"{prefix}/loss_by_position/{bucket['begin']}"] = bucket["loss"]
    recall = record.get("recall", {})
    tags.update((f"{prefix}/recall/{field}", recall[field]) for field in ("mean", "worst", "missed") if field in recall)
    tags.update((f"{prefix}/recall_by_layer/{layer['layer']}", layer["recall"]) for layer in recall.get("layers", []))
    return tags


def write_run(run, folder):
    """Writes one run's events, replacing those of an earlier export."""
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = EventFileWriter(str(folder))
    for record in sorted(run.train + run.evaluations, key=lambda record: record["step"]):
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars_of(record).items()]
        writer.add_event(Event(step=record["step"], wall_time=record["time"], summary=Summary(value=values)))
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="output_dir of a run, or its metrics.jsonl")
    parser.add_argument("--output", type=Path, default=Path("runs/tensorboard"), help="output folder; each run gets a subfolder")
    arguments = parser.parse_args()
    for path in arguments.runs:
        run = read_run(path)
        folder = arguments.output / run.name
        folder.mkdir(parents=True, exist_ok=True)
        write_run(run, folder)
        print(folder)


if __name__ == "__main__":
    main()
