"""Tests data/prepare_tokens.py and data/make_tokenizer.py."""

import contextlib
import gzip
import importlib
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "data"))

sys.path.insert(0, str(Path(__file__).parent))

from library_text import library_text  # noqa: E402
from text_sources import text_blocks  # noqa: E402

EOS = "<|endoftext|>"


def run(program: str, *arguments) -> subprocess.CompletedProcess:
    """Runs the program in its own process, as a user does."""
    command = [sys.executable, REPOSITORY / "data" / f"{program}.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def call(program: str, *arguments) -> subprocess.CompletedProcess:
    """Runs prepare_tokens in this process, which saves its start-up time."""
    errors, output = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        patch.setattr(sys, "argv", [program, *map(str, arguments)])
        code = importlib.import_module(program).main()
    return subprocess.CompletedProcess(sys.argv, code, output.getvalue(), errors.getvalue())


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "train.txt").write_text(library_text(300_000) + "äöü 東京 🙂", encoding="utf-8")
    result = run("make_tokenizer", folder / "train.txt", "--vocab-size", 1000, "--output", folder)
    assert result.returncode == 0, result.stderr
    return folder


def prepare(tokenizer_folder: Path, output: Path, *arguments) -> subprocess.CompletedProcess:
    run_or_call = run if "--workers" in arguments else call
    paths = ("--tokenizer", tokenizer_folder, "--output", output)
    return run_or_call("prepare_tokens", "--workers", 1, *arguments, *paths)


def documents_of(prefix: Path) -> list[list[int]]:
    """Reads the pair with an independent implementation of the format."""
    index = prefix.with_name(prefix.name + ".idx").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0"
    version, dtype_code, num_sequences, num_entries = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    lengths = numpy.frombuffer(index, numpy.int32, num_sequences, 34)
    pointers = numpy.frombuffer(index, numpy.int64, num_sequences, 34 + 4 * num_sequences)
    entries = numpy.frombuffer(index, numpy.int64, num_entries, 34 + 12 * num_sequences)
    assert len(index) == 34 + 12 * num_sequences + 8 * num_entries
    assert entries.tolist() == list(range(num_sequences + 1))
    dtype = {8: numpy.uint16, 4: numpy.int32}[dtype_code]
    data = prefix.with_name(prefix.name + ".bin").read_bytes()
    assert len(data) == lengths.sum() * dtype().itemsize
    return [numpy.frombuffer(data, dtype, n, p).tolist() for n, p in zip(lengths, pointers)]


def expected(tokenizer_folder: Path, texts: list[str]) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    return [tokenizer.encode(text).ids + [tokenizer.token_to_id(EOS)] for text in texts]


TEXTS = ["First text.\n", "Zweiter Text: äöü", "a  b\n\n\nc\n", "東京 🙂"]


def check(tokenizer_folder: Path, output: Path, texts: list[str], *arguments) -> dict:
    result = prepare(tokenizer_folder, output, *arguments)
    assert result.returncode == 0, result.stderr
    assert documents_of(output) == expected(tokenizer_folder, texts)
    description = json.loads(output.with_name(output.name + ".json").read_text())
    assert description["documents"] == len(texts)
    assert not list(output.parent.glob(".*.partial"))
    return description


def test_text_files_in_the_given_order(tokenizer_folder, tmp_path):
    for name, text in zip("dacb", TEXTS):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
    files = [tmp_path / f"{name}.txt" for name in "dacb"]
    description = check(tokenizer_folder, tmp_path / "out", TEXTS, *files)
    assert description["dtype"] == "uint16" and description["vocabulary_size"] == 1000
    assert description["eos_id"] == 0 and len(description["tokenizer_sha256"]) == 64


def test_line_ends_are_kept_and_a_byte_order_mark_is_removed(tokenizer_folder, tmp_path):
    (tmp_path / "dos.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    check(tokenizer_folder, tmp_path / "out", ["one\r\ntwo\r\n"], tmp_path / "dos.txt")


def test_separated_documents(tokenizer_folder, tmp_path):
    (tmp_path / "a.txt").write_text("\f".join(TEXTS) + "\f", encoding="utf-8", newline="")
    arguments = (tmp_path / "a.txt", "--document-separator", r"\f")
    assert check(tokenizer_folder, tmp_path / "out", TEXTS, *arguments)["empty_documents"] == 1


def test_separators_across_block_boundaries(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one==>two==>>three==", encoding="utf-8")
    for size in range(1, 9):
        monkeypatch.setattr("text_sources.BLOCK_BYTES", size)
        documents, text = [], ""
        for block in text_blocks(tmp_path / "a.txt", "==>"):
            text += block.text
            if block.ends_document:
                documents.append(text)
                text = ""
        assert documents == ["one", "two", ">three=="], f"blocks of {size} bytes"


@pytest.mark.parametrize("suffix, opener", [(".jsonl", open), (".jsonl.gz", gzip.open)])
def test_json_lines(tokenizer_folder, tmp_path, suffix, opener):
    with opener(tmp_path / f"a{suffix}", "wt", encoding="utf-8") as file:
        for text in TEXTS:
            file.write(json.dumps({"id": 1, "body": text}) + "\n\n")
        file.write('{"body": ""}\n{"body": "half \\ud800"}\n')
    arguments = (tmp_path / f"a{suffix}", "--text-column", "body")
    description = check(tokenizer_folder, tmp_path / "out", [*TEXTS, "half \ufffd"], *arguments)
    assert description["empty_documents"] == 1


def test_parquet(tokenizer_folder, tmp_path):
    texts = [f"{text} {i}" for i in range(300) for text in TEXTS]
    table = pyarrow.table({"id": list(range(len(texts) + 1)), "text": [*texts, None]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    assert check(tokenizer_folder, tmp_path / "out", texts, tmp_path / "a.parquet")["empty_documents"] == 1


def test_a_folder(tokenizer_folder, tmp_path):
    folder = tmp_path / "texts"
    for name, text in (("b/2.md", "two"), ("b/1.txt", "one"), ("c.txt", "three"), (".git/x.txt", "hidden")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "a.txt").write_bytes(b"latin \xe4 text")
    (folder / "zeros.txt").write_bytes(b"\0\0")
    description = check(tokenizer_folder, tmp_path / "all", ["one", "two", "three"], folder)
    assert description["undecodable_files"] == 2 and description["empty_documents"] == 0
    check(tokenizer_folder, tmp_path / "some", ["one", "three"], folder, "--extensions", ".txt,.rst")
    # If the output is inside the input folder, a second run must not read the files of the first.
    check(tokenizer_folder, folder / "out", ["one", "two", "three"], folder)
    check(tokenizer_folder, folder / "out", ["one", "two", "three"], folder)


def test_special_tokens(tokenizer_folder, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    output = tmp_path / "out"
    plain = expected(tokenizer_folder, ["text"])[0][:-1]
    assert prepare(tokenizer_folder, output, tmp_path / "a.txt", "--no-eos").returncode == 0
    assert documents_of(output) == [plain]
    arguments = ("--bos-token", EOS, "--eos-token", "!")
    assert prepare(tokenizer_folder, output, tmp_path / "a.txt", *arguments).returncode == 0
    assert documents_of(output) == [[0, *plain, 1]]


@pytest.mark.parametrize("vocabulary_size, dtype", [(65536, "uint16"), (65537, "int32")])
def test_ids_beyond_16_bits_become_int32(tokenizer_folder, tmp_path, vocabulary_size, dtype):
    spec = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    spec["model"]["vocab"] |= {f"<{number}>": number for number in range(1000, vocabulary_size)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    (tmp_path / "a.txt").write_text("text")
    last = vocabulary_size - 1
    result = prepare(tmp_path, tmp_path / "out", tmp_path / "a.txt", "--eos-token", f"<{last}>")
    assert result.returncode == 0, result.stderr
    assert documents_of(tmp_path / "out")[0][-1] == last
    description = json.loads((tmp_path / "out.json").read_text())
    assert (description["dtype"], description["vocabulary_size"]) == (dtype, vocabulary_size)


def test_one_long_document_and_two_workers(tokenizer_folder, tmp_path):
    (tmp_path / "long.txt").write_text(library_text(1_200_000), encoding="utf-8", newline="")
    (tmp_path / "many.jsonl").write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(3000)))
    inputs = (tmp_path / "many.jsonl", tmp_path / "long.txt", tmp_path / "many.jsonl")
    for workers in (1, 2):
        result = prepare(tokenizer_folder, tmp_path / f"out{workers}", *inputs, "--workers", workers)
        assert result.returncode == 0, result.stderr
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"out1{suffix}").read_bytes() == (tmp_path / f"out2{suffix}").read_bytes()
    long = (tmp_path / "long.txt").read_bytes().decode()
    assert documents_of(tmp_path / "out1")[3000] == expected(tokenizer_folder, [long])[0]
    description = json.loads((tmp_path / "out1.json").read_text())
    assert description["cuts"] >= 4 and description["unverified_cuts"] == 0


def errors_of(process: subprocess.Popen) -> str:
    try:
        return process.communicate(timeout=60)[1]
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_final_files(tokenizer_folder, tmp_path, number):
    (tmp_path / "long.txt").write_text(library_text(2_000_000) * 4, encoding="utf-8")
    output = tmp_path / "out" / "tokens"
    command = [sys.executable, REPOSITORY / "data" / "prepare_tokens.py", tmp_path / "long.txt"]
    command += ["--tokenizer", tokenizer_folder, "--output", output, "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not any(path.stat().st_size for path in output.parent.glob(".*.partial")):
        time.sleep(0.02)
    process.send_signal(number)
    errors = errors_of(process)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), errors
    left = {path.name for path in output.parent.iterdir()}
    assert not any(name.startswith("tokens") for name in left)
    assert number == signal.SIGKILL or not left


def children_of(process_id: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


def test_a_killed_worker_ends_the_run(tokenizer_folder, tmp_path):
    (tmp_path / "long.txt").write_text(library_text(2_000_000) * 4, encoding="utf-8")
    command = [sys.executable, REPOSITORY / "data" / "prepare_tokens.py", tmp_path / "long.txt", "--workers", "2"]
    command += ["--tokenizer", tokenizer_folder, "--output", tmp_path / "out"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(children_of(process.pid)) < 3:  # spawn starts a helper process, too
        time.sleep(0.02)
    os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    errors = errors_of(process)
    assert process.returncode == 1 and "a worker process failed or was killed" in errors
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".*.partial"))


def test_a_full_disk_gives_one_sentence(tokenizer_folder, tmp_path):
    (tmp_path / "long.txt").write_text(library_text(1_000_000), encoding="utf-8")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        result = prepare(tokenizer_folder, tmp_path / "out", tmp_path / "long.txt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.returncode == 1 and "File too large; nothing was written." in result.stderr
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".*.partial"))


def mistakes(folder: Path) -> list[tuple[list, str]]:
    (folder / "good.txt").write_text("text")
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes(b"\xe4\xf6")
    (folder / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (folder / "keys.jsonl").write_text('{"body": "a"}\n')
    (folder / "bad.parquet").write_text("PAR1 but not really")
    (folder / "bad.txt.gz").write_text("not compressed")
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), folder / "keys.parquet")
    (folder / "nothing").mkdir()
    return [
        (["missing.txt"], "missing.txt does not exist"),
        (["nothing"], "hold no files"),
        (["empty.txt"], "hold no text"),
        (["latin.txt"], "latin.txt is not UTF-8 text"),
        (["bad.jsonl"], "bad.jsonl, line 2 is not JSON"),
        (["keys.jsonl"], "line 1 has no text under 'text': found the keys body"),
        (["bad.parquet"], "cannot read"),
        (["keys.parquet"], "no column 'text': found body"),
        (["bad.txt.gz"], "cannot read"),
        (["good.txt", "--eos-token", "<none>"], "--eos-token <none>"),
        (["good.txt", "--tokenizer", "nothing"], "no tokenizer.json there"),
        (["good.txt", "--tokenizer", "bad.jsonl"], "bad.jsonl is not a tokenizer"),
        (["good.txt", "--output", "good.txt/out"], "cannot write to"),
    ]


def test_mistakes_give_one_sentence_and_leave_no_files(tokenizer_folder, tmp_path):
    for arguments, sentence in mistakes(tmp_path):
        arguments = [tmp_path / one if (tmp_path / one.split("/")[0]).exists() else one for one in arguments]
        base = ["--tokenizer", tokenizer_folder, "--output", tmp_path / "out", "--workers", 1]
        result = call("prepare_tokens", *base, *arguments)
        assert result.returncode == 2, (arguments, result.stderr)
        assert sentence in result.stderr and result.stderr.count("\n") == 1, (arguments, result.stderr)
        assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".*.partial"))


def test_an_unknown_end_of_text_is_an_error(tokenizer_folder, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    (tmp_path / "a.txt").write_text("text")
    result = prepare(tmp_path, tmp_path / "out", tmp_path / "a.txt")
    assert result.returncode == 2 and "give it with --eos-token" in result.stderr
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    assert prepare(tmp_path, tmp_path / "out", tmp_path / "a.txt").returncode == 0
    assert documents_of(tmp_path / "out")[0][-1] == 7


def test_the_trained_tokenizer_loads_in_transformers(tokenizer_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert tokenizer.eos_token == EOS and len(tokenizer) == 1000
    text = "def f(x):\n    return 'äöü 🙂'\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert call("make_tokenizer", __file__, "--vocab-size", 200, "--output", "x").returncode == 2
