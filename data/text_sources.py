"""Reads text from .txt (or any text) files, .jsonl, .parquet and folders of them, in bounded memory.

Documents arrive in blocks, so that a document of any size can be read. A document consists of all blocks up to and
including the next one with ends_document.
"""

import bz2
import codecs
import gzip
import json
import lzma
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from input_error import InputError

BLOCK_BYTES = 1 << 20
OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
JSON_LINES = (".jsonl", ".ndjson")


@dataclass
class Block:
    text: str
    ends_document: bool
    input_bytes: int  # bytes of the input that this block consumed, for the progress bar


@dataclass
class SourceOptions:
    text_column: str = "text"
    document_separator: str | None = None  # for .txt; None: a file is one document
    extensions: tuple[str, ...] = ()  # for folders; (): every file
    excluded_prefix: Path | None = None  # for folders: skip the output's own files


class Sources:
    """A fixed list of files from input paths: named files in their order, files of a folder sorted by path."""

    def __init__(self, paths: list[str], options: SourceOptions):
        self.options = options
        self.files: list[Path] = []
        self.undecodable: list[Path] = []  # files of a folder that were skipped because they are not UTF-8 text
        self._named: set[Path] = set()
        for path in map(Path, paths):
            if path.is_dir():
                self.files += files_of_folder(path, options)
            elif path.is_file():
                self.files.append(path)
                self._named.add(path)
            else:
                raise InputError(f"the input {path} does not exist; expected a file or a folder.")
        if not self.files:
            wanted = f" with one of the extensions {', '.join(options.extensions)}" if options.extensions else ""
            raise InputError(f"the inputs {', '.join(paths)} hold no files{wanted}.")
        self.num_bytes = sum(path.stat().st_size for path in self.files)

    def blocks(self) -> Iterator[Block]:
        for path in self.files:
            kind = kind_of(path)
            if kind in JSON_LINES:
                yield from json_lines_blocks(path, self.options.text_column)
            elif kind == ".parquet":
                yield from parquet_blocks(path, self.options.text_column)
            else:
                yield from self._text_blocks(path)

    def _text_blocks(self, path: Path) -> Iterator[Block]:
        problem = decoding_problem(path)
        if problem is None:
            yield from text_blocks(path, self.options.document_separator)
        elif path in self._named:
            raise InputError(f"{path} is not UTF-8 text: {problem}.")
        else:
            self.undecodable.append(path)
            yield Block("", False, path.stat().st_size)


def kind_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in OPENERS]
    return suffixes[-1] if suffixes else ""


def files_of_folder(folder: Path, options: SourceOptions) -> list[Path]:
    """Lists the files of a folder, without hidden files and folders, and without following links to folders."""
    own = f"{options.excluded_prefix.resolve()}." if options.excluded_prefix else None
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            wanted = not options.extensions or kind_of(path) in options.extensions
            is_output = own is not None and str(path.resolve()).startswith(own)
            if wanted and not is_output and not name.startswith(".") and path.is_file():
                files.append(path)
    return sorted(files)


def open_bytes(path: Path):
    try:
        return OPENERS.get(path.suffix.lower(), open)(path, "rb")
    except OSError as error:
        raise InputError(f"cannot open {path}: {error.strerror or error}.") from error


def byte_blocks(path: Path) -> Iterator[bytes]:
    with open_bytes(path) as file:
        try:
            while block := file.read(BLOCK_BYTES):
                yield block
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise InputError(f"cannot read {path}: {error}.") from error


def decoding_problem(path: Path) -> str | None:
    """Reads the whole file once before use, so that no document is rejected after a part of it was used."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    position = 0
    try:
        for block in byte_blocks(path):
            if b"\0" in block:
                return f"a zero byte at {position + block.index(bytes(1))}"
            decoder.decode(block)
            position += len(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return f"{error.reason} near byte {position + error.start}"
    return None


def text_blocks(path: Path, separator: str | None) -> Iterator[Block]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    held = ""  # a block may end inside a separator
    share = compressed_share(path)
    for data in byte_blocks(path):
        text = held + decoder.decode(data)
        held = ""
        if separator:
            *documents, text = text.split(separator)
            for document in documents:
                yield Block(document, True, 0)
            keep = overlap(text, separator)
            text, held = text[: len(text) - keep], text[len(text) - keep :]
        yield Block(text, False, int(len(data) * share))
    yield Block(held + decoder.decode(b"", final=True), True, 0)


def overlap(text: str, separator: str) -> int:
    """Returns how many characters at the end of the text could begin the separator."""
    for count in range(min(len(text), len(separator) - 1), 0, -1):
        if separator.startswith(text[-count:]):
            return count
    return 0


def compressed_share(path: Path) -> float:
    """Estimates the uncompressed size, for the progress bar only: text shrinks to about a third."""
    return 1 / 3 if path.suffix.lower() in OPENERS else 1


def json_lines_blocks(path: Path, column: str) -> Iterator[Block]:
    share = compressed_share(path)
    with open_bytes(path) as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Block(text_of_json(path, number, line, column), True, int(len(line) * share))
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise InputError(f"cannot read {path}: {error}.") from error


def text_of_json(path: Path, number: int, line: bytes, column: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number} is not JSON: {error}.") from error
    if not isinstance(record, dict) or not isinstance(record.get(column), str):
        found = f"the keys {', '.join(record)}" if isinstance(record, dict) else type(record).__name__
        raise InputError(
            f"{path}, line {number} has no text under '{column}': found {found}; name the key with --text-column."
        )
    return without_lone_surrogates(record[column])


def without_lone_surrogates(text: str) -> str:
    """Replaces half surrogate pairs, which JSON can contain (\\ud800) and tokenizers reject, by U+FFFD."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parquet_blocks(path: Path, column: str) -> Iterator[Block]:
    import pyarrow  # imported here because it takes half a second that other inputs do not need
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise InputError(
                    f"{path} has no column '{column}': found {', '.join(names)}; name the column with --text-column."
                )
            bytes_per_row = path.stat().st_size / max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                for text in batch.column(0).to_pylist():
                    if text is not None and not isinstance(text, str):
                        raise InputError(f"{path}: the column '{column}' holds {batch.schema.types[0]}; expected text.")
                    yield Block(text or "", True, int(bytes_per_row))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"cannot read {path} as parquet: {' '.join(str(error).split())}") from error
