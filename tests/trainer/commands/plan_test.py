"""Tests `hiptrain plan` and `hiptrain bench rates`, without a GPU and without weights.

    .venv/bin/python -m pytest tests/trainer/commands/plan_test.py
The program is $HIPTRAIN_BUILD/hiptrain; without that variable, build/hiptrain.
"""

import json
import subprocess

import pytest
from program import PROGRAM, ROOT, expect_provenance

LLAMA_8B = ROOT / "configs" / "models" / "llama-3.1-8b.json"
LLAMA_1B = ROOT / "configs" / "models" / "llama-3.2-1b.json"


def run(*arguments, expect=0):
    result = subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert result.returncode == expect, result.stdout + result.stderr
    return result.stdout + result.stderr


def plan(tmp_path, *arguments, expect=0):
    out = run("plan", *arguments, "--json", tmp_path / "plan.json", expect=expect)
    return out, json.loads((tmp_path / "plan.json").read_text())


def test_table_and_json_agree(tmp_path):
    out, figures = plan(tmp_path, "--model-config", LLAMA_1B, "--tokens", 131072)
    assert figures["fits"] and figures["tokens"] == 131072
    assert sum(item["gpu_bytes"] for item in figures["items"]) == figures["gpu_bytes"]
    assert sum(part["seconds"] for part in figures["parts"]) == pytest.approx(figures["step_seconds"])
    assert figures["tokens_per_s"] == pytest.approx(131072 / figures["step_seconds"])
    for item in figures["items"]:
        assert item["name"] in out
    assert "tokens/s, by the rates of NVIDIA H200" in out


def test_auto_offloads_and_recomputes_what_does_not_fit(tmp_path):
    figures = plan(tmp_path, "--model-config", LLAMA_8B, "--tokens", 1048576)[1]
    assert figures["fits"] and figures["offload_optimizer"] and figures["recompute_interval"] > 1
    assert figures["gpu_bytes"] <= figures["gpu_budget_bytes"] and figures["host_bytes"] <= figures["host_budget_bytes"]
    traffic = {entry["name"]: entry["bytes"] for entry in figures["traffic"]}
    assert traffic["to host"] > 12 * 8.03e9  # the optimizer state
    assert plan(tmp_path, "--model-config", LLAMA_1B, "--tokens", 65536)[1]["recompute_interval"] == 1


def test_a_run_that_does_not_fit_is_refused(tmp_path):
    options = ["--model-config", LLAMA_8B, "--tokens", 4194304]
    out, figures = plan(tmp_path, *options, expect=2)
    assert not figures["fits"] and figures["gpu_bytes"] > figures["gpu_budget_bytes"]
    assert "memory: 4194304 tokens need" in out and "there are 139.7 GiB" in out and "sequence_length of at most" in out
    out, figures = plan(tmp_path, *options, "--set", "memory.gpu=80GB", "--host-memory", "64GB", expect=2)
    assert (figures["gpu_budget_bytes"], figures["host_budget_bytes"]) == (80e9, 64e9)
    # the weights and optimizer state alone exceed the memory
    assert "sequence_length" not in out.split("What would fit")[1]


def test_a_run_that_exceeds_its_memory_limit_is_refused_before_it_starts():
    out = run("bench", "train", "--model-config", LLAMA_8B, "--tokens", 4096, "--set", "device=cpu", "--set",
              "memory.host=1GB", expect=2)
    assert "4096 tokens need" in out and "of host memory a rank, and there are 0.9 GiB" in out
    assert "optimizer states" in out and "What would fit" in out


@pytest.mark.parametrize("config", ["llama-3.1-8b_1m_one_gpu", "llama-3.2-1b_4m_one_gpu"])
def test_the_runs_in_configs_fit_on_one_gpu(tmp_path, config):
    model = ROOT / "configs" / "models" / f"{config.split('_')[0]}.json"
    figures = plan(tmp_path, ROOT / "configs" / f"{config}.yaml", "--model-config", model)[1]
    assert figures["fits"] and figures["tokens"] == (1048576 if "1m" in config else 4194304)


def test_the_longest_sequence(tmp_path):
    options = ["--model-config", LLAMA_1B, "--gpu-memory", "40GB", "--host-memory", "64GB", "--set", "recompute.interval=4",
               "--set", "offload.layer_inputs=0"]
    out, figures = plan(tmp_path, *options, "--max-tokens")
    longest = figures["tokens"]
    assert figures["fits"] and f"fits: {longest} tokens" in out
    assert plan(tmp_path, *options, "--tokens", longest + 64, expect=2)[1]["fits"] is False
    assert plan(tmp_path, *options, "--gpus", 4, "--max-tokens")[1]["tokens"] > 2 * longest


def test_several_hosts(tmp_path):
    options = ["--model-config", LLAMA_8B, "--tokens", 1048576, "--gpus", 16]
    inside = plan(tmp_path, *options)[1]
    across = plan(tmp_path, *options, "--nodes", 2, "--node-link", "1e9")[1]
    assert inside["sequence_ranks"] == 16 and inside["gpu_bytes"] == across["gpu_bytes"]
    assert across["step_seconds"] > 2 * inside["step_seconds"]
    assert [entry["name"] for entry in across["traffic"]] == ["keys and values", "weights and gradients"]
    two = plan(tmp_path, *options, "--set", "parallel.sequence=8")[1]
    assert (two["data_ranks"], two["sequence_ranks"]) == (2, 8)


def test_mistakes(tmp_path):
    assert "no model" in run("plan", expect=2)
    assert "does not divide --gpus 4" in run("plan", "--model-config", LLAMA_1B, "--gpus", 4, "--nodes", 3, expect=2)
    (tmp_path / "rates.json").write_text("{}")
    assert "rates.json has no field 'device'" in run("plan", "--model-config", LLAMA_1B, "--rates",
                                                     tmp_path / "rates.json", expect=2)
    longrope = "model.rope_scaling={rope_type: longrope, short_factor: [1], long_factor: [1]}"
    out = run("plan", "--model-config", LLAMA_1B, "--set", longrope, expect=2)
    assert "llama-3.2-1b.json with model.rope_scaling: " in out and "expected 32 numbers, half of head_dim" in out


def test_rates_of_this_machine(tmp_path):
    words = ["bench", "rates", "--tokens", 2048, 4096, "--save-rates", tmp_path / "rates.json", "--set", "device=cpu",
             "--set", "attention.window=256"]
    out = run(*words)
    assert "layer products" in out
    rates = json.loads((tmp_path / "rates.json").read_text())
    expect_provenance(rates["provenance"], words)
    assert rates["device"] == "CPU" and rates["scan"]["tokens"] == [2048, 4096]
    assert all(value > 0 for value in rates["attention"][0]["forward_flops_per_s"] + rates["tree"]["tokens_per_s"])
    common = ["--model-config", LLAMA_1B, "--tokens", 65536]
    slow = plan(tmp_path, *common, "--rates", tmp_path / "rates.json", "--gpu-memory", "100GB")[1]
    assert slow["step_seconds"] > 10 * plan(tmp_path, *common)[1]["step_seconds"]
    assert "give --link" in run("plan", *common, "--gpus", 2, "--rates", tmp_path / "rates.json", expect=2)
