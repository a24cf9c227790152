"""Tests launch/make_retrieval.py on the sources of Python's standard library and a tokenizer made from them."""

import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "launch"), str(REPOSITORY / "data"), str(REPOSITORY / "tests" / "data")]
from library_text import library_text  # noqa: E402
from make_retrieval import draw_places  # noqa: E402
from token_file import all_tokens  # noqa: E402

LENGTH, SEQUENCES, FACTS, MIN_DISTANCE = 2048, 5, 12, 500
SETTINGS = ["--length", LENGTH, "--sequences", SEQUENCES, "--facts", FACTS, "--min-distance", MIN_DISTANCE]
LINE = re.compile(r"\n#define (KEY_[0-9a-f]{4}[g-z]) (\d{5})\n")


def run(program, *arguments):
    return subprocess.run([sys.executable, REPOSITORY / program, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tokenizer, `text` of several documents, and `made.safetensors` with SETTINGS."""
    folder = tmp_path_factory.mktemp("retrieval")
    text = folder / "text.txt"
    text.write_text(library_text(200_000).replace("\nclass ", "\f\nclass "), encoding="utf-8")
    for command in (
        ["data/make_tokenizer.py", text, "--vocab-size", 1000, "--output", folder],
        ["data/prepare_tokens.py", text, "--document-separator", r"\f", "--workers", 1, "--tokenizer", folder,
         "--output", folder / "text"],
        ["launch/make_retrieval.py", folder / "text", folder, folder / "made.safetensors", *SETTINGS],
    ):
        result = run(*command)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def made(folder):
    return load_file(folder / "made.safetensors")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def refusal(folder, *arguments, tokens="text", model=""):
    """Runs make_retrieval.py, which must fail, and returns its one-sentence message."""
    result = run("launch/make_retrieval.py", folder / tokens, folder / model, folder / "none.safetensors", *arguments)
    assert result.returncode != 0 and not (folder / "none.safetensors").exists()
    assert result.stderr.startswith("make_retrieval: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_the_format(made):
    tokens, facts = made["tokens"], made["facts"]
    assert tokens.dtype == numpy.int32 and tokens.shape == (SEQUENCES, LENGTH + 1)
    assert facts.dtype == numpy.int32 and facts.shape == (SEQUENCES, FACTS, 3)
    assert (facts > 0).all() and (facts[..., 1] + facts[..., 2] <= LENGTH + 1).all()


def test_a_value_has_the_same_tokens_both_times(made, tokenizer):
    for tokens, facts in zip(made["tokens"], made["facts"]):
        for first, second, size in facts:
            value = tokens[first:first + size]
            assert (value == tokens[second:second + size]).all()
            assert re.fullmatch(r" \d{5}", tokenizer.decode(value.tolist()))


def test_each_fact_appears_twice(made, tokenizer):
    all_names = set()
    for tokens in made["tokens"]:
        lines = LINE.findall(tokenizer.decode(tokens.tolist(), skip_special_tokens=False))
        assert len(lines) == 2 * FACTS
        assert all(lines.count(line) == 2 for line in lines) and len(dict(lines)) == FACTS
        all_names |= set(dict(lines))
    assert len(all_names) == SEQUENCES * FACTS


def test_a_line_is_tokenized_as_by_the_tokenizer(made, tokenizer):
    tokens = made["tokens"][0]
    for first, _, size in made["facts"][0]:
        end = first + size + 1
        line = LINE.search(tokenizer.decode(tokens[first - 20:end].tolist(), skip_special_tokens=False)).group()
        ids = tokenizer.encode(line, add_special_tokens=False).ids
        assert tokens[end - len(ids):end].tolist() == ids


def test_without_the_facts_the_sequences_are_the_text_in_equal_parts(folder, made):
    text = all_tokens(folder / "text")
    for i, (tokens, facts) in enumerate(zip(made["tokens"], made["facts"])):
        is_planted = numpy.zeros(LENGTH + 1, bool)
        line_end = tokens[facts[0, 0] + facts[0, 2]]
        for value, size in [*facts[:, [0, 2]], *facts[:, [1, 2]]]:
            begin = value - 1
            while tokens[begin] != line_end:
                begin -= 1
            is_planted[begin:value + size + 1] = True
        kept = tokens[~is_planted]
        begin = i * len(text) // SEQUENCES
        assert (kept == text[begin:begin + len(kept)]).all()


def test_distances_and_depths(made):
    first, second = made["facts"][..., 0], made["facts"][..., 1]
    assert (second - first >= MIN_DISTANCE).all()
    assert (numpy.diff(first, axis=1) > 0).all()
    assert first[:, 0].max() < LENGTH / 4 and first[:, -1].min() > LENGTH / 2
    assert (second - first).max() > LENGTH / 2


@pytest.mark.parametrize("num_tokens", [100, 101, 1 << 20])
def test_positions_are_inside_the_text(num_tokens):
    """With 100 tokens there is only one possible pair of positions."""
    first, second = draw_places(numpy.random.default_rng(0), 300, num_tokens, 100)
    assert first.min() >= 0 and (second - first).min() >= 100 and second.max() <= num_tokens
    if num_tokens > 101:
        parts = (first * 300) // (num_tokens - 99)
        assert parts.tolist() == list(range(300))


def test_the_result_depends_on_the_seed(folder, made):
    for seed, is_same in ((0, True), (1, False)):
        output = folder / f"seed{seed}.safetensors"
        result = run("launch/make_retrieval.py", folder / "text", folder, output, *SETTINGS, "--seed", seed)
        assert result.returncode == 0, result.stderr
        again = load_file(output)
        assert all(numpy.array_equal(made[name], again[name]) == is_same for name in made)


def test_text_that_is_too_short(folder):
    num_tokens = len(all_tokens(folder / "text"))
    message = refusal(folder, "--length", 8192, "--sequences", 999)
    assert f"has {num_tokens:,} tokens, enough for {num_tokens // 8193} sequences of 8,192 without overlap" in message


def test_other_mistakes(folder):
    assert "which leaves too few for --min-distance 2000" in refusal(folder, *SETTINGS, "--min-distance", 2000)
    assert "missing.idx is no file" in refusal(folder, tokens="missing")
    (folder / "short.idx").write_bytes((folder / "text.idx").read_bytes())
    (folder / "short.bin").write_bytes((folder / "text.bin").read_bytes()[:100])
    assert "cut short or do not belong together" in refusal(folder, tokens="short")
    assert "no tokenizer.json there" in refusal(folder, model="missing")


def test_tokens_of_another_tokenizer(folder):
    smaller = folder / "smaller"
    result = run("data/make_tokenizer.py", folder / "text.txt", "--vocab-size", 300, "--output", smaller)
    assert result.returncode == 0, result.stderr
    assert "expected ids below 300" in refusal(folder, *SETTINGS, model="smaller")
