"""Compares `hiptrain attention` with the definition in attention_definition.py, on one rank and on several.

    .venv/bin/python -m pytest tests/trainer/commands/attention_command_test.py
The program is $HIPTRAIN_BUILD/hiptrain; without that variable, build/hiptrain.
"""

import math
import subprocess
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from attention_definition import allowed_keys, attend, pick, unite
from program import PROGRAM, on_ranks



class Shape(NamedTuple):
    tokens: int = 700
    query_heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    starts: tuple = (0,)
    block: int = 16
    sinks: int = 16
    window: int = 40
    picks: int = 2
    dims: int = 8
    type: torch.dtype = torch.float32

    def settings(self):
        return {"block_size": self.block, "sink_tokens": self.sinks, "window": self.window, "picks": self.picks,
                "index_dims": self.dims}

    def index_dims(self):
        half = self.dim // 2
        pairs = range(half - self.dims // 2, half)
        return [*pairs, *(pair + half for pair in pairs)]

    def geometry(self):
        return self.starts, self.block, self.sinks, self.window


SHAPES = {
    "small": Shape(),
    "seven heads a group": Shape(tokens=449, query_heads=7, kv_heads=1, dim=24, dims=12, picks=3),
    "one head a group": Shape(tokens=640, query_heads=3, kv_heads=3, dim=8, dims=8, picks=1, window=1),
    "documents": Shape(tokens=800, starts=(0, 64, 320, 704), window=20, picks=4),
    "wide": Shape(tokens=1000, query_heads=4, kv_heads=2, dim=64, dims=32, block=64, sinks=64, window=100),
    "no sinks": Shape(tokens=300, sinks=0, picks=8),
    "shorter than a tile": Shape(tokens=5),
    "bfloat16": Shape(type=torch.bfloat16, dim=64, block=32, sinks=32, dims=16),
    "head_dim 128": Shape(tokens=450, query_heads=4, kv_heads=2, dim=128, dims=32, block=32, sinks=32),
    "four heads a group": Shape(tokens=450, query_heads=8, kv_heads=2, dim=64, dims=16, picks=3),
    "three heads a group": Shape(tokens=450, query_heads=6, kv_heads=2, dim=64, dims=32, type=torch.bfloat16),
    "sixteen heads a group": Shape(tokens=330, query_heads=16, kv_heads=1, dim=128, dims=32, picks=4),
}


def make_input(shape, seed=0):
    """Inputs of small integers: scores are exact, so picks must agree even for ties."""
    generator = torch.Generator().manual_seed(seed)

    def integers(heads):
        return torch.randint(-3, 4, (shape.tokens, heads, shape.dim), generator=generator).to(shape.type)

    return {"q": integers(shape.query_heads), "k": integers(shape.kv_heads), "v": integers(shape.kv_heads),
            "do": integers(shape.query_heads), "document_starts": torch.tensor(shape.starts)}


def run(folder, tensors, settings, ranks=1, expect=0, backend="reference", query_tile="auto"):
    save_file(tensors, folder / "in.safetensors")
    command = [str(PROGRAM), "attention", str(folder / "in.safetensors"), str(folder / "out.safetensors"),
               "--backend", backend, "--set", f"memory.query_tile={query_tile}"]
    for name, value in settings.items():
        command += ["--set", f"attention.{name}={value}"]
    command = on_ranks(command, ranks)
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == expect, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return load_file(folder / "out.safetensors") if expect == 0 else result.stderr


def lists_of(out):
    """Returns the lists in the form of unite()."""
    flat = out["list_offsets"].tolist()
    lists = []
    for offsets in flat:
        for begin, end in zip(offsets, offsets[1:]):
            blocks = out["list_block"][begin:end].tolist()
            assert blocks == sorted(set(blocks))
            lists.append(dict(zip(blocks, out["list_first_row"][begin:end].tolist())))
    return lists


def expected_output(shape, tensors, lists):
    inputs = {name: tensors[name].double().requires_grad_() for name in ("q", "k", "v")}
    allowed = allowed_keys(lists, shape.tokens, shape.kv_heads, *shape.geometry())
    output, lse = attend(inputs["q"], inputs["k"], inputs["v"], allowed, 1 / math.sqrt(shape.dim))
    output.backward(tensors["do"].double())
    return {"o": output.detach(), "lse": lse.detach(), "dq": inputs["q"].grad, "dk": inputs["k"].grad,
            "dv": inputs["v"].grad}


@pytest.mark.parametrize("index_heads", ["each", "mean"])
@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_definition(name, index_heads, tmp_path):
    shape = SHAPES[name]
    tensors = make_input(shape)
    out = run(tmp_path, tensors, {**shape.settings(), "index_heads": index_heads})
    expected_picks = pick(tensors["q"], tensors["k"], *shape.geometry(), shape.picks, shape.index_dims(), index_heads)
    assert torch.equal(out["picks"], expected_picks)
    expected_lists = unite(expected_picks, shape.tokens, shape.starts)
    assert lists_of(out) == expected_lists
    for tensor, expected in expected_output(shape, tensors, expected_lists).items():
        tolerance = (2e-2 if shape.type == torch.bfloat16 else 2e-5) * max(1.0, expected.abs().max().item())
        assert (out[tensor].double() - expected).abs().max() < tolerance, tensor


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@needs_gpu
@pytest.mark.parametrize("index_heads", ["each", "mean"])
@pytest.mark.parametrize("name", SHAPES)
def test_cuda_equals_the_reference(name, index_heads, tmp_path):
    shape = SHAPES[name]
    tensors = make_input(shape, seed=2)
    settings = {**shape.settings(), "index_heads": index_heads}
    expected = run(tmp_path, tensors, settings)
    found = run(tmp_path, tensors, settings, backend="cuda")
    assert found.keys() == expected.keys()
    for tensor, values in expected.items():
        if not values.is_floating_point():
            assert torch.equal(found[tensor], values), tensor
            continue
        tolerance = (2e-2 if shape.type == torch.bfloat16 else 2e-5) * max(1.0, values.abs().max().item())
        assert (found[tensor].double() - values.double()).abs().max() < tolerance, tensor


@needs_gpu
@pytest.mark.parametrize("settings", [{"type": "dense"}, {"type": "dense", "deterministic": "true"},
                                      {"selection": "published", "blocks": 4, "query_stride": 4}],
                         ids=["dense", "dense by our kernels", "published"])
@pytest.mark.parametrize("type", [torch.float32, torch.bfloat16])
def test_cuda_equals_the_reference_without_picks(settings, type, tmp_path):
    shape = Shape(tokens=1100, dim=64, type=type)
    generator = torch.Generator().manual_seed(4)
    tensors = {name: torch.randn(shape.tokens, heads, shape.dim, generator=generator).to(type)
               for name, heads in (("q", 4), ("k", 2), ("v", 2), ("do", 4))}
    expected = run(tmp_path, tensors, {**shape.settings(), **settings})
    found = run(tmp_path, tensors, {**shape.settings(), **settings}, backend="cuda")
    for tensor, values in expected.items():
        if not values.is_floating_point():
            assert torch.equal(found[tensor], values), tensor
            continue
        tolerance = (2e-2 if type == torch.bfloat16 else 2e-5) * max(1.0, values.abs().max().item())
        assert (found[tensor].double() - values.double()).abs().max() < tolerance, tensor


def test_cuda_without_a_gpu_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    message = run(tmp_path, make_input(Shape()), Shape().settings(), backend="cuda", expect=2)
    assert "no GPU was found" in message and "cpu" in message


@pytest.mark.parametrize("settings", [{}, {"index_heads": "mean"}, {"scan_tokens": 0, "beam": 1, "top_nodes": 8},
                                      {"selection": "published", "blocks": 4, "query_stride": 4}, {"type": "dense"}],
                         ids=["scan", "mean", "tree", "published", "dense"])
def test_ranks_give_the_result_of_one(settings, tmp_path):
    shape = Shape(tokens=1100, starts=(0, 128, 192), window=70)
    generator = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(shape.tokens, heads, shape.dim, generator=generator)
               for name, heads in (("q", 4), ("k", 2), ("v", 2), ("do", 4))}
    tensors["document_starts"] = torch.tensor(shape.starts)
    one = run(tmp_path, tensors, {**shape.settings(), **settings})
    for ranks in (2, 3):
        many = run(tmp_path, tensors, {**shape.settings(), **settings}, ranks)
        assert many.keys() == one.keys()
        for tensor in one:
            if tensor in ("dk", "dv"):  # these are summed over ranks
                assert torch.allclose(many[tensor], one[tensor], rtol=1e-4, atol=1e-5), (tensor, ranks)
            else:
                assert torch.equal(many[tensor], one[tensor]), (tensor, ranks)


@pytest.mark.parametrize("settings", [{}, {"scan_tokens": 0, "beam": 1, "top_nodes": 4}], ids=["scan", "tree"])
def test_picks_do_not_depend_on_tiles_and_ranks(settings, tmp_path):
    """Covers tiles shorter than the tree's beam, ranks with fewer tokens than the beam, and a rank without tokens."""
    shape = Shape(tokens=1000, query_heads=6)
    generator = torch.Generator().manual_seed(5)
    tensors = {name: torch.randn(shape.tokens, heads, shape.dim, generator=generator)
               for name, heads in (("q", 6), ("k", 2), ("v", 2))}
    one = run(tmp_path, tensors, {**shape.settings(), **settings})
    for ranks, query_tile in ((1, 64), (1, 192), (2, 64), (2, 192), (4, "auto"), (9, "auto")):
        found = run(tmp_path, tensors, {**shape.settings(), **settings}, ranks, query_tile=query_tile)
        for tensor in ("picks", "list_offsets", "list_block", "list_first_row", "o"):
            assert torch.equal(found[tensor], one[tensor]), (tensor, ranks, query_tile)


@pytest.mark.parametrize("settings", [{}, {"scan_tokens": 0, "beam": 2, "top_nodes": 4},
                                      {"selection": "published", "blocks": 4, "query_stride": 4}],
                         ids=["scan", "tree", "published"])
def test_no_row_sees_the_future(settings, tmp_path):
    shape = Shape(tokens=640, query_heads=2, kv_heads=1, dim=8)
    generator = torch.Generator().manual_seed(2)
    tensors = {name: torch.randn(shape.tokens, heads, shape.dim, generator=generator)
               for name, heads in (("q", 2), ("k", 1), ("v", 1))}
    before = run(tmp_path, tensors, {**shape.settings(), **settings})
    for position in (1, 63, 64, 449, 470, 500, 511, 512, 639):
        changed = {name: tensor.clone() for name, tensor in tensors.items()}
        for tensor in changed.values():
            tensor[position:] = torch.randn(tensor[position:].shape, generator=generator)
        after = run(tmp_path, changed, {**shape.settings(), **settings})
        assert torch.equal(after["o"][:position], before["o"][:position]), position
        assert torch.equal(after["lse"][:position], before["lse"][:position]), position
        assert not torch.equal(after["o"][position:], before["o"][position:])


def test_own_tile_selection_sees_the_future(tmp_path):
    """The published selection sees the future, which shows that the test above can fail."""
    shape = Shape(tokens=640, query_heads=2, kv_heads=1, dim=8)
    generator = torch.Generator().manual_seed(2)
    tensors = {name: torch.randn(shape.tokens, heads, shape.dim, generator=generator)
               for name, heads in (("q", 2), ("k", 1), ("v", 1))}
    settings = {**shape.settings(), "selection": "published_own_tile", "blocks": 4, "query_stride": 1}
    before = run(tmp_path, tensors, settings)
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    changed["q"][600:] *= -3
    after = run(tmp_path, changed, settings)
    assert not torch.equal(after["o"][576:600], before["o"][576:600])


def test_dense_is_plain_causal_attention(tmp_path):
    shape = Shape(tokens=333, dim=40)
    tensors = make_input(shape, seed=3)
    out = run(tmp_path, tensors, {"type": "dense"})
    everything = torch.ones(shape.kv_heads, shape.tokens, shape.tokens, dtype=torch.bool).tril()
    output, lse = attend(*(tensors[name].double() for name in "qkv"), everything, 1 / math.sqrt(shape.dim))
    assert (out["o"].double() - output).abs().max() < 1e-4
    assert (out["lse"].double() - lse).abs().max() < 1e-4


def test_scale_and_explicit_index_dims(tmp_path):
    shape = Shape(tokens=500)
    tensors = make_input(shape, seed=4)
    out = run(tmp_path, tensors, {**shape.settings(), "index_dims": "[0, 3, 11]", "scale": 0.5})
    picks = pick(tensors["q"], tensors["k"], *shape.geometry(), shape.picks, [0, 3, 11])
    assert torch.equal(out["picks"], picks)
    allowed = allowed_keys(unite(picks, shape.tokens, shape.starts), shape.tokens, shape.kv_heads, *shape.geometry())
    output, _ = attend(*(tensors[name].double() for name in "qkv"), allowed, 0.5)
    assert (out["o"].double() - output).abs().max() < 1e-4


@pytest.mark.parametrize("change, message", [
    ({"q": torch.zeros(700, 5, 16)}, "5 query heads over 2 KV heads"),
    ({"k": torch.zeros(699, 2, 16)}, "does not match q"),
    ({"v": torch.zeros(700, 2, 8)}, "does not match k"),
    ({"q": torch.zeros(700, 4, 16, dtype=torch.float64)}, "expected F32 or BF16"),
    ({"document_starts": torch.tensor([0, 100])}, "document_starts[1] = 100"),
    ({"do": torch.zeros(700, 4, 8)}, "do"),
])
def test_wrong_tensors_are_refused(change, message, tmp_path):
    error = run(tmp_path, {**make_input(Shape()), **change}, Shape().settings(), expect=2)
    assert message in error and len(error.strip().splitlines()) == 1, error
