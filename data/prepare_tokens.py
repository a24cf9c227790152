"""Turns text into token files for training: PREFIX.bin, PREFIX.idx (Megatron) and PREFIX.json.

    python data/prepare_tokens.py books/ notes.jsonl.gz --tokenizer models/llama --output runs/books --workers 8

Documents keep the order of the input whatever the number of workers: every file given, a .txt file or another text
file being one document, a .jsonl or .parquet file one a record, and a folder its files sorted by path. Memory is bounded
by the pieces on their way, not by files or documents.
"""

import argparse
import codecs
import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read on import; the workers are the parallelism

import numpy

from document_cutter import PIECE_CHARACTERS, DocumentCutter, Piece, PieceEncoder
from input_error import InputError
from megatron_writer import MegatronWriter
from progress import Progress
from text_sources import SourceOptions, Sources
from tokenizer_folder import TokenizerFolder, load_tokenizer

PIECES_PER_TASK = 1024


@dataclass
class SpecialIds:
    """Put around every document; None for nothing."""

    bos: int | None
    eos: int | None


@dataclass
class Task:
    """Neighbouring pieces that one worker encodes together."""

    pieces: list[Piece]

    def input_bytes(self) -> int:
        return sum(piece.input_bytes for piece in self.pieces)


@dataclass
class TaskTokens:
    tokens: numpy.ndarray  # of all pieces, one after the other
    counts: list[tuple[int, bool]]  # of each piece that has tokens: how many, and whether it ends its document
    input_bytes: int
    num_empty_documents: int


class TaskEncoder:
    def __init__(self, tokenizer_file: Path, special: SpecialIds, dtype: str):
        self._encoder = PieceEncoder(load_tokenizer(tokenizer_file))
        self._special, self._dtype = special, dtype

    def __call__(self, task: Task) -> TaskTokens:
        # Only a document's first piece can be empty: a longer document is cut with text on both sides.
        pieces = [piece for piece in task.pieces if piece.text]
        encoded = self._encoder.encode([(piece.text, piece.continues) for piece in pieces])
        parts = [self._with_special(piece, ids) for piece, ids in zip(pieces, encoded)]
        return TaskTokens(
            tokens=numpy.concatenate(parts) if parts else numpy.empty(0, self._dtype),
            counts=[(len(part), piece.ends_document) for part, piece in zip(parts, pieces)],
            input_bytes=task.input_bytes(),
            num_empty_documents=len(task.pieces) - len(pieces),
        )

    def _with_special(self, piece: Piece, ids: list[int]) -> numpy.ndarray:
        if self._special.bos is not None and not piece.continues:
            ids = [self._special.bos, *ids]
        if self._special.eos is not None and piece.ends_document:
            ids = [*ids, self._special.eos]
        return numpy.array(ids, self._dtype)


worker_encoder: TaskEncoder | None = None  # of a worker process


def start_worker(*arguments) -> None:
    global worker_encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=end_with_parent, daemon=True).start()
    worker_encoder = TaskEncoder(*arguments)


def end_with_parent() -> None:
    """A killed parent can tell nobody, and would leave its workers waiting for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def encode_in_worker(task: Task) -> TaskTokens:
    return worker_encoder(task)


def encode_all(tasks: Iterable[Task], num_workers: int, encoder_arguments: tuple) -> Iterator[TaskTokens]:
    """In the order of the tasks, with a bounded number of them on their way."""
    if num_workers == 1:
        yield from map(TaskEncoder(*encoder_arguments), tasks)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("spawn"), start_worker, encoder_arguments
    )
    waiting = collections.deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(encode_in_worker, task))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def tasks_of(pieces: Iterable[Piece]) -> Iterator[Task]:
    pending, characters = [], 0
    for piece in pieces:
        pending.append(piece)
        characters += len(piece.text)
        if characters >= PIECE_CHARACTERS or len(pending) == PIECES_PER_TASK:
            yield Task(pending)
            pending, characters = [], 0
    if pending:
        yield Task(pending)


def special_ids(folder: TokenizerFolder, arguments: argparse.Namespace) -> SpecialIds:
    bos, eos = arguments.bos_token, arguments.eos_token
    bos_id = None if bos is None else folder.token_id(bos, "--bos-token")
    if not arguments.eos:
        return SpecialIds(bos_id, None)
    return SpecialIds(bos_id, folder.eos_id() if eos is None else folder.token_id(eos, "--eos-token"))


def write_tokens(writer: MegatronWriter, encoded_tasks: Iterable[TaskTokens], progress: Progress) -> int:
    """Returns how many documents had no text."""
    num_empty_documents = 0
    for encoded in encoded_tasks:
        writer.write(encoded.tokens)
        for tokens, ends_document in encoded.counts:
            writer.count(tokens, ends_document)
        num_empty_documents += encoded.num_empty_documents
        progress.advance(encoded.input_bytes, writer.num_tokens)
    return num_empty_documents


def prepare(arguments: argparse.Namespace) -> dict:
    """Returns what PREFIX.json says."""
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
    print(f"{prefix}.bin: {description['documents']:,} documents, {description['tokens']:,} tokens ({description['dtype']})")
    for key, what in (
        ("empty_documents", "documents without text were left out"),
        ("undecodable_files", "files that are not UTF-8 text were left out"),
        ("unverified_cuts", "cuts of long documents may differ from the tokenizer's result on the whole"),
    ):
        if description[key]:
            print(f"{description[key]:,} {what}")


def separator(text: str) -> str:
    """Understands \\f, \\n and the like, as shells pass them on untouched."""
    try:
        decoded = codecs.decode(text.encode("latin-1", "backslashreplace"), "unicode_escape")
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no valid escape: {error.reason}") from error
    if not decoded:
        raise argparse.ArgumentTypeError("must not be empty")
    return decoded


def extension_list(text: str) -> tuple[str, ...]:
    return tuple("." + extension.strip().lstrip(".").lower() for extension in text.split(",") if extension.strip())


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number from 1")
    return int(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Turns text into token files for training: PREFIX.bin and PREFIX.idx.",
        epilog="Inputs may be compressed (.gz, .xz, .bz2), save parquet.",
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="text files, .jsonl, .parquet, or folders of them")
    add("--tokenizer", required=True, metavar="PATH", help="a model's folder, or its tokenizer.json")
    add("--output", required=True, metavar="PREFIX", help="of the files to write")
    add("--workers", type=positive, default=len(os.sched_getaffinity(0)), metavar="N", help="processes (all cores)")
    add("--text-column", default="text", metavar="NAME", help="of .jsonl and .parquet (text)")
    add("--document-separator", type=separator, metavar="TEXT", help=r"cuts text files into documents, for example '\f'")
    add("--extensions", type=extension_list, default=(), metavar=".A,.B", help="of the files to take from folders (all)")
    add("--bos-token", metavar="TOKEN", help="put before every document (nothing)")
    add("--eos-token", metavar="TOKEN", help="put behind every document (the tokenizer's own)")
    add("--no-eos", dest="eos", action="store_false", help="put nothing behind the documents")
    arguments = parser.parse_args()
    if arguments.eos_token is not None and not arguments.eos:
        parser.error("--eos-token and --no-eos exclude each other.")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds: partial files are removed
    try:
        print_summary(arguments.output, prepare(arguments))
    except InputError as error:
        print(f"prepare_tokens: {error}", file=sys.stderr)
        return 2
    except concurrent.futures.process.BrokenProcessPool:
        print("prepare_tokens: a worker process was killed (out of memory?); nothing was written.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare_tokens: interrupted; nothing was written.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
