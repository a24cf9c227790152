"""Writes Megatron token files: NAME.bin (raw tokens), NAME.idx (documents) and NAME.json (how they were made).

The files appear together at the end or not at all: they are written under temporary names, flushed to disk, and then
renamed, NAME.idx last. A reader needs NAME.idx, so it never sees an incomplete pair.
"""

import array
import contextlib
import hashlib
import json
import os
import struct
from pathlib import Path

import numpy

from input_error import InputError

MAGIC = b"MMIDIDX\0\0"
DTYPE_CODES = {"uint16": 8, "int32": 4}
LARGEST_LENGTH = 2**31 - 1  # lengths are int32


class MegatronWriter:
    def __init__(self, prefix: Path, dtype: str):
        self.prefix, self.dtype = prefix, numpy.dtype(dtype)
        self.num_tokens = 0
        self.lengths = array.array("i")  # lengths of the finished documents
        self._open_tokens = 0  # tokens so far of the document being written
        self._digest = hashlib.sha256()
        try:
            prefix.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._temporary(".bin"), "wb")
        except OSError as error:
            raise InputError(f"cannot write to {prefix.parent}: {error.strerror}.") from error

    def write(self, tokens: numpy.ndarray) -> None:
        data = tokens.astype(self.dtype, copy=False).tobytes()
        self._file.write(data)
        self._digest.update(data)
        self.num_tokens += len(tokens)

    def count(self, tokens: int, ends_document: bool) -> None:
        """Assigns the tokens given to write() to documents, piece by piece in the same order."""
        self._open_tokens += tokens
        if self._open_tokens > LARGEST_LENGTH:
            raise InputError(f"document {len(self.lengths)} has more than {LARGEST_LENGTH} tokens, the format's limit.")
        if ends_document:
            self.lengths.append(self._open_tokens)
            self._open_tokens = 0

    def commit(self, description: dict) -> None:
        assert self._open_tokens == 0 and sum(self.lengths) == self.num_tokens
        flush_and_close(self._file)
        with open(self._temporary(".idx"), "wb") as file:
            self._write_index(file)
            flush_and_close(file)
        with open(self._temporary(".json"), "w", encoding="utf-8") as file:
            json.dump({**description, "bin_sha256": self._digest.hexdigest()}, file, indent=2, ensure_ascii=False)
            file.write("\n")
            flush_and_close(file)
        self._final(".idx").unlink(missing_ok=True)  # an .idx of an earlier run must not stand beside the new .bin
        for suffix in (".bin", ".json", ".idx"):
            os.replace(self._temporary(suffix), self._final(suffix))
        flush_folder(self.prefix.parent)

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # closing flushes buffers, and the disk may be full
            self._file.close()
        for suffix in (".bin", ".idx", ".json"):
            self._temporary(suffix).unlink(missing_ok=True)

    def _write_index(self, file) -> None:
        lengths = numpy.frombuffer(self.lengths, dtype=numpy.int32)
        ends = numpy.cumsum(lengths, dtype=numpy.int64) * self.dtype.itemsize
        pointers = numpy.concatenate([numpy.zeros(1, numpy.int64), ends])[:-1]
        documents = numpy.arange(len(lengths) + 1, dtype=numpy.int64)
        file.write(MAGIC + struct.pack("<QB", 1, DTYPE_CODES[self.dtype.name]))
        file.write(struct.pack("<QQ", len(lengths), len(documents)))
        for part in (lengths, pointers, documents):
            file.write(part.tobytes())

    def _final(self, suffix: str) -> Path:
        return self.prefix.with_name(self.prefix.name + suffix)

    def _temporary(self, suffix: str) -> Path:
        return self.prefix.with_name(f".{self.prefix.name}{suffix}.{os.getpid()}.partial")


def flush_and_close(file) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
