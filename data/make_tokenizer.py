"""Trains a byte-level BPE tokenizer on text and saves tokenizer.json and tokenizer_config.json.

    python data/make_tokenizer.py texts/ --vocab-size 8192 --output models/small
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from argument_types import extension_list, positive
from input_error import InputError
from text_sources import SourceOptions, Sources

NUM_BYTES = 256  # each byte value is a token, so that every text can be encoded


def train(texts: Iterator[str], vocab_size: int, eos_token: str, show_progress: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[eos_token],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, eos_token: str, model_max_length: int) -> None:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos_token,
        "model_max_length": model_max_length,
        "clean_up_tokenization_spaces": False,
    }
    files = {
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        "tokenizer.json": tokenizer.to_str(pretty=True),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            temporary = folder / f".{name}.{os.getpid()}.partial"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, folder / name)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}.") from error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains a byte-level BPE tokenizer on text.")
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="text files, .jsonl, .parquet, or folders of them")
    add("--vocab-size", type=positive, required=True, metavar="N", help="vocabulary size with the end-of-text token")
    add("--output", required=True, metavar="FOLDER", help="where to write tokenizer.json and tokenizer_config.json")
    add("--text-column", default="text", metavar="NAME", help="text column of .jsonl and .parquet files (text)")
    add("--extensions", type=extension_list, default=(), metavar=".A,.B", help="file extensions to read from folders")
    add("--eos-token", default="<|endoftext|>", metavar="TOKEN", help="end-of-text token (<|endoftext|>)")
    add("--model-max-length", type=positive, default=1 << 30, metavar="N", help="in tokenizer_config.json (no limit)")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    try:
        if arguments.vocab_size <= NUM_BYTES:
            least = NUM_BYTES + 1
            raise InputError(
                f"--vocab-size {arguments.vocab_size}; expected at least {least}: one token for each byte value, and the "
                "end-of-text token."
            )
        sources = Sources(arguments.inputs, SourceOptions(arguments.text_column, extensions=arguments.extensions))
        texts = (block.text for block in sources.blocks())
        tokenizer = train(texts, arguments.vocab_size, arguments.eos_token, sys.stderr.isatty())
        save(tokenizer, Path(arguments.output), arguments.eos_token, arguments.model_max_length)
    except InputError as error:
        print(f"make_tokenizer: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: {tokenizer.get_vocab_size():,} tokens from {len(sources.files):,} files")
    if tokenizer.get_vocab_size() < arguments.vocab_size:
        print(f"the text is too small for the requested {arguments.vocab_size:,} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
