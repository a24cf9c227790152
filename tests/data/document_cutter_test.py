"""The pieces of a long document have the tokens of the whole document, and cutting takes linear time."""

import json
import sys
import time
from pathlib import Path

import numpy
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "data"))
sys.path.insert(0, str(Path(__file__).parent))

from document_cutter import DocumentCutter, PieceEncoder  # noqa: E402
from library_text import library_text  # noqa: E402
from text_sources import Block  # noqa: E402

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(pre_tokenizer, text: str, normalizer=None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def gpt2_like(text: str) -> Tokenizer:
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), text)


def llama3_like(text: str) -> Tokenizer:
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
    parts = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    return byte_level(pre_tokenizers.Sequence(parts), text, normalizers.NFC())


def llama2_like(text: str) -> Tokenizer:
    """A SentencePiece-like tokenizer: a space before every text, no pre-tokenization, bytes for unknown characters."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    trained.train_from_iterator(text.split("\n"), trainer)
    spec = json.loads(trained.to_str())
    spec["added_tokens"] = []
    spec["pre_tokenizer"] = None
    spec["model"] |= {"byte_fallback": True, "fuse_unk": True}
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.ByteFallback()
    return tokenizer


def encode_cut(tokenizer: Tokenizer, text: str, piece_characters: int) -> tuple[list[int], DocumentCutter]:
    cutter, encoder = DocumentCutter(tokenizer, piece_characters), PieceEncoder(tokenizer)
    blocks = [Block(text[i : i + 50_000], i + 50_000 >= len(text), 0) for i in range(0, len(text), 50_000)]
    ids = []
    for piece in cutter.pieces(blocks):
        ids += encoder.encode([(piece.text, piece.continues)])[0]
    return ids, cutter


@pytest.mark.parametrize("family", [gpt2_like, llama3_like, llama2_like])
@pytest.mark.parametrize("kind", ["code", "blank lines", "one line", "no spaces", "dos", "digits"])
def test_pieces_give_the_tokens_of_the_whole(family, kind):
    random = numpy.random.default_rng(1)
    characters = [*"東京は日本の首都です。🙂", "e\u0301"]
    code = library_text(150_000) + "".join(random.choice(characters, 10_000))
    text = {
        "code": code,
        "blank lines": code.replace("\n", "\n\n   \n"),
        "one line": " ".join(code.split()),
        "no spaces": "".join(code.split()),
        "dos": code.replace("\n", "\r\n"),
        "digits": "".join(f"{i}{',' if i % 50 == 0 else ''}" for i in range(30_000)),
    }[kind]
    tokenizer = family(code)
    ids, cutter = encode_cut(tokenizer, text, 9_000)
    assert cutter.num_cuts >= 10
    assert cutter.num_unverified_cuts == 0
    assert ids == tokenizer.encode(text, add_special_tokens=False).ids


def test_cuts_that_cannot_be_verified_are_counted_and_lose_no_text():
    text = " " * 60_000
    tokenizer = gpt2_like(library_text(50_000))
    ids, cutter = encode_cut(tokenizer, text, 9_000)
    assert cutter.num_unverified_cuts == cutter.num_cuts > 0
    tokenizer.decoder = decoders.ByteLevel()
    assert tokenizer.decode(ids) == text


def test_time_is_linear_in_the_length_of_a_document():
    text = library_text(1_000_000)
    tokenizer = gpt2_like(text[:100_000])

    def seconds(copies: int) -> float:
        begin = time.process_time()
        encode_cut(tokenizer, text * copies, 1 << 18)
        return time.process_time() - begin

    seconds(1)  # warms up the tokenizer's caches
    assert seconds(4) < 6 * seconds(1)
