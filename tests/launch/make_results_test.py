"""Checks that tests/bench/make_results.py turns the recorded figures into the page of results."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1] / "bench"
TRAIN = {"model": "tiny.json", "ranks": 2, "tokens": 1024, "step_seconds": 2.0, "tokens_per_s": 512.0, "mfu": 0.5,
         "mean_list_entries": 7.0, "part_seconds": {"search": 1.0},
         "comparison": {"step, s": {"predicted": 1.0, "measured": 2.0}},
         "plan": {"recompute_interval": 1, "device_inputs": 3, "host_inputs": 0, "offload_optimizer": True,
                  "offload_gradients": False, "offload_weights": False}}


def make(*arguments):
    return subprocess.run([sys.executable, BENCH / "make_results.py", *arguments], capture_output=True, text=True)


def page_of(tmp_path, name, figures, notes=None):
    (tmp_path / "results").mkdir(exist_ok=True)
    (tmp_path / "results" / f"{name}.json").write_text(json.dumps(figures))
    (tmp_path / "notes.json").write_text(json.dumps({f"{name}.json": notes or {}}))
    places = ["--results", tmp_path / "results", "--notes", tmp_path / "notes.json", "--output", tmp_path / "page.md"]
    result = make(*places)
    assert result.returncode == 0, result.stderr
    return (tmp_path / "page.md").read_text(), places


def row_after(page, heading, name):
    return next(line for line in page[page.index(f"## {heading}"):].splitlines() if line.startswith(f"| [{name}]"))


def test_the_committed_page_is_up_to_date():
    result = make("--check")
    assert result.returncode == 0, result.stderr


def test_an_outdated_page_is_detected(tmp_path):
    page, places = page_of(tmp_path, "2xh200_a", TRAIN)
    assert make("--check", *places).returncode == 0
    (tmp_path / "page.md").write_text(page.replace("256", "257"))
    result = make("--check", *places)
    assert result.returncode == 1 and "stale" in result.stderr


def test_speed_is_per_gpu(tmp_path):
    page, _ = page_of(tmp_path, "2xh200_a", TRAIN)
    row = row_after(page, "Training steps", "2xh200_a")
    assert "| tiny | 1,024 | 2 | **256** | 50% | 7.0 |" in row and "| optimizer |" in row


def test_missing_information_is_shown_as_missing(tmp_path):
    page, _ = page_of(tmp_path, "two_of_4xh200_a", TRAIN)
    row = row_after(page, "How each file was measured", "two_of_4xh200_a")
    assert "| not recorded | not recorded | two H200 of a host with four | not recorded |" in row


def test_a_file_takes_precedence_over_the_notes(tmp_path):
    provenance = {"date": "2027-01-02T03:04:05Z", "version": "0.2.0", "commit": "0123456789abcdef", "gpu": "NVIDIA B200",
                  "command": "hiptrain bench train"}
    notes = {"committed": "2026-01-01", "command": "another"}
    for figures in (TRAIN | provenance, TRAIN | {"provenance": provenance}):
        page, _ = page_of(tmp_path, "a", figures, notes)
        row = row_after(page, "How each file was measured", "a")
        assert "| 2027-01-02 | 0.2.0 (012345678) | NVIDIA B200 | `hiptrain bench train` |" in row


def test_uncommitted_changes_are_shown(tmp_path):
    page, _ = page_of(tmp_path, "a", TRAIN | {"provenance": {"version": "0.2.0", "commit": "0123456789ab+changes", "gpu": None}})
    assert "| 0.2.0 (012345678+changes) |" in row_after(page, "How each file was measured", "a")


def test_superseded_figures_move_to_the_history(tmp_path):
    page, _ = page_of(tmp_path, "h200_a", TRAIN, {"superseded": True})
    assert "## Training steps" not in page and "| 1,024 |" in row_after(page, "History", "h200_a")
