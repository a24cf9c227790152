"""Turns text into token files for training: PREFIX.bin, PREFIX.idx (Megatron) and PREFIX.json.

    python data/prepare_tokens.py books/ notes.jsonl.gz --tokenizer models/llama --output runs/books --workers 8

Documents keep the order of the input for any number of workers: files in the order given, files of a folder sorted by
path. A text file is one document; each record of a .jsonl or .parquet file is one document. Memory is bounded by the
pieces in flight, not by the size of files or documents.
"""

import argparse
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from argument_types import extension_list, positive, separator
from document_cutter import DocumentCutter
from input_error import InputError
from megatron_writer import MegatronWriter
from parallel_encoding import SpecialIds, TaskTokens, WorkerEnded, encode_all, tasks_of
from progress import Progress
from text_sources import SourceOptions, Sources
from tokenizer_folder import TokenizerFolder


def special_ids(folder: TokenizerFolder, arguments: argparse.Namespace) -> SpecialIds:
    bos, eos = arguments.bos_token, arguments.eos_token
    bos_id = None if bos is None else folder.token_id(bos, "--bos-token")
    if not arguments.eos:
        return SpecialIds(bos_id, None)
    return SpecialIds(bos_id, folder.eos_id() if eos is None else folder.token_id(eos, "--eos-token"))


def write_tokens(writer: MegatronWriter, encoded_tasks: Iterable[TaskTokens], progress: Progress) -> int:
    """Writes all documents and returns how many had no text."""
    num_empty_documents = 0
    for encoded in encoded_tasks:
        writer.write(encoded.tokens)
        for tokens, ends_document in encoded.counts:
            writer.count(tokens, ends_document)
        num_empty_documents += encoded.num_empty_documents
        progress.advance(encoded.input_bytes, writer.num_tokens)
    return num_empty_documents


def prepare(arguments: argparse.Namespace) -> dict:
    """Returns the content of PREFIX.json."""
    folder = TokenizerFolder(arguments.tokenizer)
    special = special_ids(folder, arguments)
    dtype = "uint16" if folder.vocabulary_size <= 65536 else "int32"
    prefix = Path(arguments.output)
    sources = Sources(
        arguments.inputs,
        SourceOptions(arguments.text_column, arguments.document_separator, arguments.extensions, prefix),
    )
    cutter = DocumentCutter(folder.tokenizer)
    tasks = tasks_of(cutter.pieces(sources.blocks()))
    writer = MegatronWriter(prefix, dtype)
    try:
        encoding = encode_all(tasks, arguments.workers, (folder.file, special, dtype))
        with Progress(sources.num_bytes) as progress, contextlib.closing(encoding):
            num_empty_documents = write_tokens(writer, encoding, progress)
        if not writer.lengths:
            raise InputError(f"the inputs {', '.join(arguments.inputs)} hold no text.")
        description = {
            "documents": len(writer.lengths),
            "tokens": writer.num_tokens,
            "dtype": dtype,
            "empty_documents": num_empty_documents,
            "undecodable_files": len(sources.undecodable),
            "cuts": cutter.num_cuts,
            "unverified_cuts": cutter.num_unverified_cuts,
            "tokenizer": str(folder.file),
            "tokenizer_sha256": folder.sha256,
            "vocabulary_size": folder.vocabulary_size,
            "bos_id": special.bos,
            "eos_id": special.eos,
            "command": shlex.join(sys.argv),
        }
        writer.commit(description)
    except BaseException:
        writer.discard()
        raise
    return description


def print_summary(prefix: str, description: dict) -> None:
    documents, tokens, dtype = (description[key] for key in ("documents", "tokens", "dtype"))
    print(f"{prefix}.bin: {documents:,} documents, {tokens:,} tokens ({dtype})")
    for key, what in (
        ("empty_documents", "documents without text were skipped"),
        ("undecodable_files", "files that are not UTF-8 text were skipped"),
        ("unverified_cuts", "cuts of long documents may change the tokens: no safe position was found"),
    ):
        if description[key]:
            print(f"{description[key]:,} {what}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Turns text into token files for training: PREFIX.bin and PREFIX.idx.",
        epilog="Inputs other than parquet may be compressed (.gz, .xz, .bz2).",
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="text files, .jsonl, .parquet, or folders of them")
    add("--tokenizer", required=True, metavar="PATH", help="model folder, or its tokenizer.json")
    add("--output", required=True, metavar="PREFIX", help="prefix of the files to write")
    num_cores = len(os.sched_getaffinity(0))
    add("--workers", type=positive, default=num_cores, metavar="N", help="number of processes (one per core)")
    add("--text-column", default="text", metavar="NAME", help="text column of .jsonl and .parquet files (text)")
    add("--document-separator", type=separator, metavar="TEXT", help=r"split text files here, for example '\f'")
    add("--extensions", type=extension_list, default=(), metavar=".A,.B", help="file extensions to read from folders")
    add("--bos-token", metavar="TOKEN", help="token to put before every document (none)")
    add("--eos-token", metavar="TOKEN", help="token to put after every document (the tokenizer's end-of-text token)")
    add("--no-eos", dest="eos", action="store_false", help="put no token after documents")
    arguments = parser.parse_args()
    if arguments.eos_token is not None and not arguments.eos:
        parser.error("--eos-token and --no-eos cannot be used together.")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the exception removes partial files
    try:
        print_summary(arguments.output, prepare(arguments))
    except InputError as error:
        print(f"prepare_tokens: {error}", file=sys.stderr)
        return 2
    except WorkerEnded:
        print("prepare_tokens: a worker process failed or was killed (memory?); nothing was written.", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk
        print(f"prepare_tokens: {error}; nothing was written.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare_tokens: interrupted; nothing was written.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
