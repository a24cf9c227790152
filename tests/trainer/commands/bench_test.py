"""Tests `hiptrain bench` and traces on a model small enough for the CPU.

    .venv/bin/python -m pytest tests/trainer/commands/bench_test.py
The program is $HIPTRAIN_BUILD/hiptrain; without that variable, build/hiptrain.
"""

import json
import subprocess

import pytest
import torch
from program import PROGRAM, ROOT, expect_provenance, on_ranks

MODELS = sorted((ROOT / "configs" / "models").glob("*.json"))
# Shapes from the models' own pages.
PARAMETERS = {"llama-3.1-8b": 8_030_261_248, "llama-3.2-1b": 1_235_814_400, "qwen2.5-7b": 7_615_616_512,
              "qwen3-0.6b": 596_049_920, "qwen3-8b": 8_190_735_360}


def bench(*arguments, expect=0):
    result = subprocess.run([str(PROGRAM), "bench", *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == expect, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture
def small_model(tmp_path):
    fields = json.loads((ROOT / "configs" / "models" / "llama-3.2-1b.json").read_text())
    fields |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
               "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300}
    (tmp_path / "small.json").write_text(json.dumps(fields))
    return tmp_path / "small.json"


def test_parts_add_up_to_the_step(small_model, tmp_path):
    words = ["train", "--model-config", str(small_model), "--tokens", "3000", "--steps", "3", "--warm-up", "1",
             "--json", str(tmp_path / "figures.json"), "--profile", str(tmp_path / "trace.json"),
             "--set", "device=cpu", "--set", "attention.window=200"]
    out = bench(*words)
    figures = json.loads((tmp_path / "figures.json").read_text())
    expect_provenance(figures["provenance"], ["bench", *words])
    parts = figures["part_seconds"]
    assert sum(parts.values()) == pytest.approx(figures["step_seconds"], rel=1e-6)
    for part in ("projections and MLP", "search", "attention forward", "attention backward", "loss", "optimizer"):
        assert parts[part] > 0 and part in out
    assert figures["tokens_per_s"] == pytest.approx(3000 / figures["step_seconds"])
    assert figures["mean_list_entries"] > 0
    assert figures["wait_seconds"] == {} and figures["exposed_communication_seconds"] == 0
    assert figures["mfu"] == pytest.approx(
        figures["tokens_per_s"] * figures["flops_per_token"] / figures["matmul_flops"])
    trace = json.loads((tmp_path / "trace.json").read_text())
    expect_provenance(trace["otherData"], ["bench", *words])
    events = trace["traceEvents"]
    step = events[0]
    assert step["name"] == "step" and step["dur"] == pytest.approx(1e6 * figures["step_seconds"])
    assert all(step["ts"] <= event["ts"] and event["ts"] + event["dur"] <= step["ts"] + step["dur"] + 1
               for event in events)


@pytest.mark.parametrize("ranks", [1, 3])
def test_communication(ranks, tmp_path):
    words = ["bench", "communication", "--size", "3KiB", "3MiB", "--repeats", "2", "--set", "device=cpu",
             "--json", str(tmp_path / "figures.json")]
    result = subprocess.run(on_ranks([str(PROGRAM), *words], ranks), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    expect_provenance(figures["provenance"], words)
    assert figures["ranks"] == ranks and figures["groups"] == 1
    names = ["all-gather", "reduce-scatter", "all-to-all", "all-reduce", "copy on the device"]
    assert [(line["name"], line["bytes"]) for line in figures["results"]] == [
        (name, size) for size in (3 << 10, 3 << 20) for name in names]
    for line in figures["results"]:
        share = {"copy on the device": 1, "all-reduce": 2 * (ranks - 1) / ranks}.get(line["name"], (ranks - 1) / ranks)
        assert line["seconds"] > 0
        assert line["link_bytes_per_s"] == pytest.approx(share * line["bytes"] / line["seconds"])
        assert line["name"] in result.stdout


@pytest.mark.parametrize("exchange", ["allgather", "alltoall"])
def test_exposed_communication_is_part_of_the_step(exchange, small_model, tmp_path):
    result = subprocess.run(
        on_ranks([str(PROGRAM), "bench", "train", "--model-config", str(small_model), "--tokens", "3000", "--steps", "1",
                  "--json", str(tmp_path / "figures.json"), "--set", "device=cpu", "--set", "attention.window=200",
                  "--set", f"parallel.exchange={exchange}"], 2),
        capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    waits = {name: seconds for name, seconds in figures["wait_seconds"].items() if seconds > 0}
    names = {"weights", "gradients", "index and picks", "keys and values", "gradients of keys"}
    if exchange == "alltoall":
        names.add("queries and outputs")
    assert waits.keys() == {f"waiting for {name}" for name in names}
    for name, seconds in waits.items():
        assert figures["part_seconds"][name] == pytest.approx(seconds, rel=0.05, abs=1e-4)
        assert name in result.stdout
    assert figures["exposed_communication_seconds"] == pytest.approx(sum(waits.values()))
    assert f"{1e3 * sum(waits.values()):.1f} ms" in result.stdout
    ranks = figures["rank_exposed_communication_seconds"]
    assert len(ranks) == 2 and ranks[0] == pytest.approx(sum(waits.values()))
    assert f"the ranks wait {1e3 * min(ranks):.1f} to {1e3 * max(ranks):.1f} ms" in result.stdout
    early, late = figures["rank_list_entries"]
    if exchange == "allgather":
        assert early < late  # later tokens have more blocks to choose from


def test_model_configs_have_the_shapes_of_the_models():
    assert {path.stem for path in MODELS} == PARAMETERS.keys()
    for path in MODELS:
        fields = json.loads(path.read_text())
        heads, kv_heads = fields["num_attention_heads"], fields["num_key_value_heads"]
        hidden, inner = fields["hidden_size"], fields["intermediate_size"]
        dim = fields.get("head_dim", hidden // heads)
        layer = hidden * dim * (2 * heads + 2 * kv_heads) + 3 * hidden * inner + 2 * hidden
        if fields["model_type"] == "qwen2":
            layer += dim * (heads + 2 * kv_heads)
        if fields["model_type"] == "qwen3":
            layer += 2 * dim
        tables = 1 if fields["tie_word_embeddings"] else 2
        total = fields["num_hidden_layers"] * layer + tables * fields["vocab_size"] * hidden + hidden
        assert total == PARAMETERS[path.stem], path.stem


def test_attention_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "no GPU was found" in bench("attention", "--tokens", "1024", expect=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_attention(tmp_path):
    bench("attention", "--tokens", "8192", "16384", "--query-heads", "8", "--kv-heads", "2", "--head-dim", "64",
          "--repeats", "1", "--json", str(tmp_path / "figures.json"))
    for length in json.loads((tmp_path / "figures.json").read_text())["lengths"]:
        names = [entry["name"] for entry in length["measurements"]]
        assert "own search: picks" in names and "dense cuDNN: backward" in names
        assert all(entry["seconds"] > 0 for entry in length["measurements"])


# Memory grows linearly with the tokens, as the planner says.
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_peak_memory_grows_with_tokens_as_planned(tmp_path):
    fields = json.loads((ROOT / "configs" / "models" / "llama-3.2-1b.json").read_text()) | {"num_hidden_layers": 4}
    (tmp_path / "model.json").write_text(json.dumps(fields))
    measured, planned = [], []
    for tokens in (65536, 131072, 262144):
        bench("train", "--model-config", str(tmp_path / "model.json"), "--tokens", str(tokens), "--steps", "1",
              "--warm-up", "0", "--json", str(tmp_path / "figures.json"), "--set", "recompute.interval=1",
              "--set", "offload.layer_inputs=0", "--set", "memory.query_tile=65536", "--set", "memory.token_tile=4096")
        memory = json.loads((tmp_path / "figures.json").read_text())["comparison"]["GPU memory of tensors, GiB"]
        measured.append(memory["measured"])
        planned.append(memory["predicted"])
    assert measured == pytest.approx(planned, rel=0.03)
    assert measured[1] - measured[0] == pytest.approx(planned[1] - planned[0], rel=0.03)
    assert measured[2] - measured[1] == pytest.approx(planned[2] - planned[1], rel=0.03)
    assert measured[2] - measured[1] == pytest.approx(2 * (measured[1] - measured[0]), rel=0.03)


def test_kernels(tmp_path):
    out = bench("kernels", "--set", "device=cpu", "--repeats", "1", "--json", str(tmp_path / "figures.json"))
    figures = json.loads((tmp_path / "figures.json").read_text())
    entries = figures["measurements"]
    assert entries[0]["kernel"] == "copy" and entries[0]["of_copy"] == 1
    for entry in entries:
        assert entry["bytes_per_s"] == pytest.approx(entry["bytes"] / entry["seconds"])
        assert entry["of_copy"] == pytest.approx(entry["bytes_per_s"] / entries[0]["bytes_per_s"])
        assert entry["kernel"] in out and entry["shape"] in out
    assert {entry["kernel"] for entry in entries} == {
        "copy", "RMSNorm", "RMSNorm, residual added", "RMSNorm backward", "RMSNorm backward, added", "RoPE", "SwiGLU",
        "SwiGLU backward", "embedding", "embedding backward", "cross entropy, loss only", "cross entropy", "AdamW",
        "sum of squares", "index", "sliding union", "inversion of lists"}
    assert sum(entry["kernel"] == "AdamW" for entry in entries) == 4
    assert 0 < figures["loss"]["products_seconds"] and 0 < figures["loss"]["seconds"]
    # 256 rows of 256 elements, read and written, 2 bytes each. The list lengths are drawn as for a trained model.
    assert next(entry for entry in entries if entry["kernel"] == "RMSNorm")["bytes"] == 2 * 2 * 256 * 256
    length = next(entry for entry in entries if entry["kernel"] == "sliding union")["shape"].split()[-4]
    assert 10 < int(length) < 34


def test_kernels_of_one_group(tmp_path):
    words = ["kernels", "rope", "--set", "device=cpu", "--repeats", "1", "--json", str(tmp_path / "figures.json")]
    bench(*words)
    figures = json.loads((tmp_path / "figures.json").read_text())
    expect_provenance(figures["provenance"], ["bench", *words])
    entries = figures["measurements"]
    assert {entry["kernel"] for entry in entries} == {"copy", "RoPE"}
    assert "'ropes' is no group of kernels; valid: norm, rope" in bench("kernels", "ropes", expect=2)


def test_wrong_shapes_are_refused(small_model):
    longrope = "model.rope_scaling={rope_type: longrope, short_factor: [1], long_factor: [1]}"
    assert "expected 8 numbers, half of head_dim" in bench("train", "--model-config", str(small_model), "--tokens",
                                                           "64", "--set", longrope, expect=2)
    assert "no multiple of 3 KV heads" in bench("attention", "--kv-heads", "3", expect=2)
    assert "no multiple of 64" in bench("attention", "--tokens", "1000", expect=2)
