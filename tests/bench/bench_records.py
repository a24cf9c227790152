"""Reads the figures in tests/bench/results and the notes on how they were measured."""

import json
from pathlib import Path
from typing import NamedTuple

BENCH = Path(__file__).resolve().parent
NOT_RECORDED = "not recorded"
COUNTS = {"1": "one", "2": "two", "4": "four", "8": "eight"}


class Record(NamedTuple):
    name: str  # name of the file, without .json
    figures: object  # content of the file
    notes: dict  # its entry in results_notes.json

    def recorded(self, *keys):
        """Returns the first of these keys that the file has, at its top or in its `provenance`; else None."""
        first = self.figures[0] if isinstance(self.figures, list) else self.figures
        for place in (first, first.get("provenance", {})):
            for key in keys:
                if place.get(key):
                    return str(place[key])
        return None

    @property
    def kind(self):
        if isinstance(self.figures, list):
            return "plan"
        kinds = {"part_seconds": "train", "lengths": "attention", "results": "communication", "measurements": "kernels",
                 "matmul_flops_per_s": "rates", "losses": "loss"}
        return next((kind for key, kind in kinds.items() if key in self.figures), "other")

    @property
    def superseded(self):
        """Returns whether it was measured with a selection that is no longer the default."""
        return self.notes.get("superseded", False)

    @property
    def date(self):
        date = self.recorded("date", "time")
        if date:
            return date[:10]
        return f"committed {self.notes['committed']}" if "committed" in self.notes else NOT_RECORDED

    @property
    def version(self):
        version, commit = self.recorded("version"), self.recorded("commit")
        if version and commit:
            number, plus, changes = commit.partition("+")  # 0123456789ab+changes
            return f"{version} ({number[:9]}{plus}{changes})"
        return version or commit or NOT_RECORDED

    @property
    def machine(self):
        """Returns the GPU that the file records, else the GPU in its name, as in one_of_4xh200_..."""
        gpu = self.recorded("gpu", "gpu_name")
        return gpu if gpu else machine_of(self.name)

    @property
    def command(self):
        return self.recorded("command") or self.notes.get("command", NOT_RECORDED)


def machine_of(name):
    """Describes a machine from its name: two_of_4xh200_x -> two H200 of a host with four."""
    words = name.split("_")
    part = words[0] if words[1:2] == ["of"] else None
    machine = words[2] if part else words[0]
    count, gpu = machine.split("x", 1) if "x" in machine else ("1", machine)
    count = COUNTS.get(count, count)
    return f"{part} {gpu.upper()} of a host with {count}" if part else f"{count} {gpu.upper()}"


def read_records(folder=BENCH / "results", notes_file=BENCH / "results_notes.json"):
    notes = json.loads(notes_file.read_text()) if notes_file.is_file() else {}
    return [Record(path.stem, json.loads(path.read_text()), notes.get(path.name, {}))
            for path in sorted(folder.glob("*.json"))]


def read_dense_trainers():
    return json.loads((BENCH / "dense_trainers.json").read_text())


def model_name(record):
    return record.figures["model"].removesuffix(".json")
