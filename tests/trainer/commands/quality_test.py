"""Measures the quality of the selection on a trained model, with the model and retrieval file beside the repository.

    .venv/bin/python -m pytest tests/trainer/commands/quality_test.py
The model is too large for the repository. It lies in ../shared; ctest skips this test without it.
"""

import re
import subprocess

import pytest
import torch
from safetensors.torch import load_file
from program import PROGRAM, ROOT

MODEL = ROOT.parent / "shared" / "models" / "kernel-llama-29m"
FACTS = ROOT.parent / "shared" / "data" / "retrieval_8k.safetensors"
SEQUENCES = 2


def evaluate(*settings, sequences=SEQUENCES):
    """Returns (loss, retrieval) in float32 with window 512."""
    command = [str(PROGRAM), "evaluate", "--model", str(MODEL), "--data", str(FACTS), "--sequences", str(sequences)]
    for setting in ("precision=float32", "attention.window=512", *settings):
        command += ["--set", setting]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=500).stdout
    return (float(re.search(r"^loss (\S+)", output, re.M).group(1)),
            float(re.search(r"^retrieval (\S+)", output, re.M).group(1)))


@pytest.fixture(scope="module")
def dense():
    return evaluate("attention.type=dense")


def test_dense_equals_transformers():
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokens = load_file(FACTS)["tokens"][0].long()
    with torch.no_grad():
        logits = model(tokens[None, :-1]).logits[0]
    expected = torch.nn.functional.cross_entropy(logits, tokens[1:]).item()
    loss, _ = evaluate("attention.type=dense", sequences=1)
    assert loss == pytest.approx(expected, abs=1e-4)


def test_defaults(dense):
    loss, retrieval = evaluate()
    assert loss < dense[0] * 1.005
    assert retrieval >= dense[1] - 0.03


def test_mean_query(dense):
    """The mean of a group's queries has what one head looks for, but more weakly."""
    loss, retrieval = evaluate("attention.index_heads=mean")
    assert loss < dense[0] * 1.005
    assert retrieval >= dense[1] - 0.03


def test_float8_keys(dense):
    loss, retrieval = evaluate("attention.index_dtype=float8_e4m3")
    assert loss < dense[0] * 1.005
    assert retrieval >= dense[1] - 0.03


def test_tree_at_every_length(dense):
    """Uses a beam of half the nodes of 8,192 tokens: with all nodes the tree would equal the scan."""
    loss, retrieval = evaluate("attention.scan_tokens=0", "attention.beam=4", "attention.top_nodes=64")
    assert loss < dense[0] * 1.005
    assert retrieval >= dense[1] - 0.03


def test_lists_of_whole_tiles_lose_the_facts(dense):
    """One list per tile loses facts, which is why every token selects; it also shows that this measure can fail."""
    loss, retrieval = evaluate("device=cpu", "attention.selection=published", "attention.blocks=16")
    assert loss > dense[0] * 1.03
    assert retrieval < 0.5
