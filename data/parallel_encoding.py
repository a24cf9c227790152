"""Encodes pieces of text in several processes, in order and in bounded memory."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy

from document_cutter import PIECE_CHARACTERS, Piece, PieceEncoder
from tokenizer_folder import load_tokenizer

PIECES_PER_TASK = 1024


@dataclass
class SpecialIds:
    """The tokens put around every document; None adds no token."""

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
    tokens: numpy.ndarray  # tokens of all pieces, concatenated
    counts: list[tuple[int, bool]]  # per piece that has tokens: their number, and whether it ends its document
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


class WorkerEnded(Exception):
    """A worker process was killed or failed."""


class Worker:
    """A worker process with its own pipe. A pool's queue can hang when a worker is killed; a pipe closes."""

    def __init__(self, encoder_arguments: tuple):
        context = multiprocessing.get_context("spawn")  # not fork: this process may have threads
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=serve, args=(other_end, *encoder_arguments), daemon=True)
        self._process.start()
        other_end.close()  # then the worker holds the only write end, and the pipe closes when the worker dies

    def encode(self, task: Task) -> TaskTokens:
        try:
            self._connection.send(task)
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerEnded from error

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


def serve(connection: multiprocessing.connection.Connection, *encoder_arguments) -> None:
    """Main loop of a worker process, until its parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    encoder = TaskEncoder(*encoder_arguments)
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(encoder(connection.recv()))


def encode_all(tasks: Iterable[Task], num_workers: int, encoder_arguments: tuple) -> Iterator[TaskTokens]:
    """Yields results in the order of the tasks, with a bounded number of tasks in flight."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers already run in parallel
    if num_workers == 1:
        yield from map(TaskEncoder(*encoder_arguments), tasks)
        return
    workers = [Worker(encoder_arguments) for _ in range(num_workers)]
    idle = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def encode(task: Task) -> TaskTokens:
        worker = idle.get()  # never blocks: there are as many threads as workers
        try:
            return worker.encode(task)
        finally:
            idle.put(worker)

    threads = concurrent.futures.ThreadPoolExecutor(num_workers)
    try:
        yield from in_order(threads, encode, tasks, 2 * num_workers)
    finally:
        for worker in workers:
            worker.stop()
        threads.shutdown(cancel_futures=True)


def in_order(threads, function, tasks: Iterable[Task], most_waiting: int) -> Iterator[TaskTokens]:
    waiting = collections.deque()
    for task in tasks:
        waiting.append(threads.submit(function, task))
        if len(waiting) > most_waiting:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


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
