"""Reads what a run writes to metrics.jsonl."""

import json
from pathlib import Path
from typing import NamedTuple


class RunMetrics(NamedTuple):
    name: str
    train: list  # records of the event "train", one a step, ascending
    evaluations: list  # records of the event "eval", ascending
    resumed_steps: list  # steps that the run was continued from


def metrics_path(run):
    """run: an output_dir, or its metrics.jsonl."""
    path = Path(run)
    path = path / "metrics.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise SystemExit(f"{run}: no metrics.jsonl there; give a run's output_dir")
    return path


def records_of(path):
    """A run that is being written, or was killed, may end in half a line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise SystemExit(f"{path}:{number}: not a JSON object: {error}") from None


def read_run(run):
    """A resumed run repeats steps that came after its checkpoint: the last record of each step counts."""
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
    """(steps, values) of a field, without the steps where it is missing or null (not finite)."""
    pairs = [(record["step"], record[field]) for record in records if record.get(field) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]
