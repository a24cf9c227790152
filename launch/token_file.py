"""Reads the Megatron .bin/.idx pairs that data/prepare_tokens.py writes."""

import struct
import sys
from pathlib import Path

import numpy

INDEX_HEADER = struct.Struct("<9sQBQQ")  # magic, version, type, sequences, documents
TYPES = {1: numpy.uint8, 4: numpy.int32, 5: numpy.int64, 8: numpy.uint16}


def read_index(prefix):
    """Returns (token dtype, document lengths) of a pair."""
    index = Path(f"{prefix}.idx").read_bytes()
    magic, version, type_code, num_documents, _ = INDEX_HEADER.unpack_from(index.ljust(INDEX_HEADER.size))
    if magic != b"MMIDIDX\x00\x00" or version != 1 or type_code not in TYPES:
        sys.exit(f"{prefix}.idx is not a Megatron index")
    return TYPES[type_code], numpy.frombuffer(index, numpy.int32, count=num_documents, offset=INDEX_HEADER.size)


def mapped_tokens(prefix):
    """Maps the tokens of all documents: (tokens). The file is read only where they are used."""
    dtype, lengths = read_index(prefix)
    return numpy.memmap(f"{prefix}.bin", dtype, mode="r", shape=int(lengths.sum(dtype=numpy.int64)))


def all_tokens(prefix):
    """Reads the tokens of all documents: (tokens) int64."""
    return numpy.fromfile(f"{prefix}.bin", read_index(prefix)[0]).astype(numpy.int64)


def first_document(prefix):
    """Reads the tokens of the first document: (tokens) int64."""
    dtype, lengths = read_index(prefix)
    return numpy.fromfile(f"{prefix}.bin", dtype, count=int(lengths[0])).astype(numpy.int64)
