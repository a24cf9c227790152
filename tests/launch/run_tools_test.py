"""Tests the tools that read metrics.jsonl, on a run that was killed, resumed, and had a loss that was not finite."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
sys.path[:0] = [str(LAUNCH), str(LAUNCH.parent / "data")]
from megatron_writer import MegatronWriter  # noqa: E402
from run_metrics import read_run, series  # noqa: E402


def train_record(step, loss):
    return {"event": "train", "step": step, "time": 1e9 + step, "loss": loss, "lr": 1e-3, "grad_norm": 1.5,
            "tokens_per_s": 5000.0, "skipped": loss is None}


RECALL = {"mean": 0.8, "worst": 0.5, "worst_layer": 3, "missed": 0.01, "layers": [
    {"layer": 1, "recall": 0.75, "missed": 0.01, "list_entries": 9.5, "kv_head_recall": [0.75, 1.0]},
    {"layer": 3, "recall": 0.5, "missed": 0.01, "list_entries": 12.0, "kv_head_recall": [0.95, 0.5]}]}


@pytest.fixture
def run(tmp_path):
    buckets = [{"begin": 0, "end": 1024, "loss": 6.0}, {"begin": 1024, "end": 2048, "loss": 5.0}]
    records = [
        {"event": "start", "step": 0, "time": 1e9},
        {**train_record(1, 8.0), "recall": RECALL},
        *[train_record(step, 9.0 - step) for step in (2, 3, 4)],
        {"event": "start", "step": 3, "time": 1e9, "resumed_from": "checkpoints/step_00000003"},
        train_record(4, 4.5),  # the resumed run repeats step 4
        train_record(5, None),
        *[train_record(step, 3.0) for step in (6, 7, 8, 9)],
        {"event": "eval", "step": 9, "time": 1e9, "loss": 5.5, "buckets": buckets},
    ]
    folder = tmp_path / "some_run"
    folder.mkdir()
    text = "\n".join(json.dumps(record) for record in records) + '\n{"event": "train", "st'
    (folder / "metrics.jsonl").write_text(text)
    return folder


def run_tool(name, *arguments):
    return subprocess.run([sys.executable, LAUNCH / name, *map(str, arguments)], capture_output=True, text=True)


def test_the_last_record_of_a_step_counts(run):
    metrics = read_run(run)
    steps, losses = series(metrics.train, "loss")
    assert steps == [1, 2, 3, 4, 6, 7, 8, 9]
    assert losses == [8.0, 7.0, 6.0, 4.5, 3.0, 3.0, 3.0, 3.0]
    assert metrics.resumed_steps == [3]
    assert [record["loss"] for record in metrics.evaluations] == [5.5]


def test_a_broken_line_inside_the_file_is_an_error(run):
    path = run / "metrics.jsonl"
    path.write_text("{half\n" + path.read_text())
    with pytest.raises(SystemExit, match=r"metrics\.jsonl:1: not a JSON object"):
        read_run(run)


def test_plot_of_two_runs(run, tmp_path):
    output = tmp_path / "two.png"
    result = run_tool("plot_run.py", run, run / "metrics.jsonl", "--output", output)
    assert result.returncode == 0, result.stderr
    picture = matplotlib.image.imread(output)
    assert picture.shape[0] > 500 and picture.shape[1] > 500 and picture.std() > 0.05


def test_plot_of_a_selection(run, tmp_path):
    output = tmp_path / "selection.png"
    result = run_tool("plot_selection.py", run, "--output", output)
    assert result.returncode == 0, result.stderr
    assert matplotlib.image.imread(output).std() > 0.05


def test_plot_of_a_run_that_was_not_measured(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(train_record(1, 8.0)) + "\n")
    result = run_tool("plot_selection.py", tmp_path)
    assert result.returncode != 0 and "metrics.recall_every" in result.stderr


def test_plot_without_a_run(tmp_path):
    result = run_tool("plot_run.py", tmp_path)
    assert result.returncode != 0 and "there is no metrics.jsonl" in result.stderr


def test_tensorboard_has_the_same_numbers(run, tmp_path):
    for _ in range(2):  # a second export replaces the first
        result = run_tool("export_tensorboard.py", run, "--output", tmp_path / "events")
        assert result.returncode == 0, result.stderr
    events = EventAccumulator(str(tmp_path / "events" / "some_run"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == list(zip(*series(read_run(run).train, "loss")))
    assert [event.value for event in events.Scalars("eval/loss_by_position/1024")] == [5.0]
    assert [event.value for event in events.Scalars("train/recall/worst")] == [0.5]
    assert [event.value for event in events.Scalars("train/recall_by_layer/1")] == [0.75]


def test_check_loss_fell(run):
    assert run_tool("check_loss_fell.py", run, "--by", "4").returncode == 0
    result = run_tool("check_loss_fell.py", run, "--by", "4.5")
    assert result.returncode != 0 and "did not fall by 4.5" in result.stderr


def test_check_loss_fell_below_the_frequencies(run, tmp_path):
    """60 equally frequent tokens have an entropy of log 60 = 4.09 nats. The mean of the last five losses is 3.3."""
    for prefix, num_tokens in (("two", 2), ("many", 60)):
        writer = MegatronWriter(tmp_path / prefix, "uint16")
        writer.write(numpy.arange(6000) % num_tokens)
        writer.count(6000, ends_document=True)
        writer.commit({})
    result = run_tool("check_loss_fell.py", run, "--tokens", tmp_path / "two")
    assert result.returncode != 0 and "0.693" in result.stdout and "is not 0.5 below" in result.stderr
    assert run_tool("check_loss_fell.py", run, "--tokens", tmp_path / "many", "--below", "0.7").returncode == 0
    assert run_tool("check_loss_fell.py", run, "--tokens", tmp_path / "many", "--below", "0.9").returncode != 0
