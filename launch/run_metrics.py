"""Reads metrics.jsonl, which a run writes."""

import json
from pathlib import Path
from typing import NamedTuple


class RunMetrics(NamedTuple):
    name: str
    train: list  # records of the event "train", one per step, ascending
    evaluations: list  # records of the event "eval", ascending
    resumed_steps: list  # steps from which the run was resumed


def metrics_path(run):
    """run: an output_dir, or its metrics.jsonl."""
    path = Path(run)
    path = path / "metrics.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise SystemExit(f"{run}: there is no metrics.jsonl; give a run's output_dir")
    return path


def records_of(path):
    """Reads all records. The last line may be incomplete if the run is still writing or was killed."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise SystemExit(f"{path}:{number}: not a JSON object: {error}") from None


def read_run(run):
    """Keeps the last record of each step: a resumed run repeats the steps after its checkpoint."""
    path = metrics_path(run)
    train, evaluations, resumed_steps = {}, {}, []
    for record in records_of(path):
        event = record.get("event")
        if event == "train":
            train[record["step"]] = record
        elif event == "eval":
            evaluations[record["step"]] = record
        elif event == "start" and record.get("resumed_from"):
            resumed_steps.append(record["step"])
    return RunMetrics(
        name=path.parent.name,
        train=[train[step] for step in sorted(train)],
        evaluations=[evaluations[step] for step in sorted(evaluations)],
        resumed_steps=resumed_steps,
    )


def series(records, field):
    """Returns (steps, values) of a field, without steps in which it is missing or null (not finite)."""
    pairs = [(record["step"], record[field]) for record in records if record.get(field) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]
