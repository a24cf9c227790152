"""Pieces of text encoded by several processes, in order and in bounded memory."""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy

from document_cutter import PIECE_CHARACTERS, Piece, PieceEncoder
from tokenizer_folder import load_tokenizer

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
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the library's threads: the workers are the parallelism
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
