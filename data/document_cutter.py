"""Cuts long documents into pieces whose tokens, joined, equal the tokens of the whole document.

Tokenizing a whole book in one call uses one process and much memory, and some tokenizers take more than linear time.
Pieces of PIECE_CHARACTERS keep the time linear and spread one document over all workers.

Where a cut is safe: a byte-level BPE first splits the text with a regular expression and never merges across a split.
All known expressions split after a line end between two characters that are not spaces (GPT-2, Llama 3, Qwen; o200k
does not before a slash). No position inside a run of spaces is safe, because `\\s+(?!\\S)` looks ahead. We rely on no
such rule: each candidate is tried on the text around it, and is used only if the two sides, encoded separately, give
the tokens of both encoded together. Without line ends we try positions between words, then any position.

A piece that continues a document is encoded with a line end in front, whose tokens are then removed: SentencePiece
tokenizers put a space before every text, and that space must not appear in the middle of a document.

Limits: the check sees CONTEXT_CHARACTERS on both sides. A tokenizer without pre-tokenization whose result depends on
text further away could differ at a cut (periodic text without spaces can do this). If no position near the wanted one
passes, as in a run of spaces, the cut is made nevertheless and counted in num_unverified_cuts.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from text_sources import Block

PIECE_CHARACTERS = 1 << 18
CONTEXT_CHARACTERS = 2048
MAX_TRIES = 24  # tries for each kind of position
LINE_END = "\n"

PLACES = (
    re.compile(r"(?<=\S\n)(?=\w)"),
    re.compile(r"(?<=\S\n)(?=\S)"),
    re.compile(r"(?<=\w)(?= \w)"),
    re.compile(r"(?<=\S)(?=\S)"),
)


@dataclass
class Piece:
    text: str
    continues: bool  # this piece is not the first of its document
    ends_document: bool
    input_bytes: int


class PieceEncoder:
    """Encodes pieces into token ids, with the same result in every process."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._line_end_ids = self._encode([LINE_END])[0]

    def encode(self, pieces: list[tuple[str, bool]]) -> list[list[int]]:
        """Encodes a list of (text, continues)."""
        encoded = self._encode([LINE_END + text if continues else text for text, continues in pieces])
        return [
            self._without_line_end(ids, text) if continues else ids
            for ids, (text, continues) in zip(encoded, pieces)
        ]

    def splits_at(self, text: str, place: int) -> bool:
        whole, left = self._encode([text, text[:place]])
        right = self._encode([LINE_END + text[place:]])[0]
        count = len(self._line_end_ids)
        return right[:count] == self._line_end_ids and left + right[count:] == whole

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _without_line_end(self, ids: list[int], text: str) -> list[int]:
        count = len(self._line_end_ids)
        if ids[:count] == self._line_end_ids:
            return ids[count:]
        return self._encode([text])[0]  # an unverified cut where the tokenizer merged our line end with the text


class DocumentCutter:
    def __init__(self, tokenizer: Tokenizer, piece_characters: int = PIECE_CHARACTERS):
        self._encoder = PieceEncoder(tokenizer)
        self._piece_characters = piece_characters
        self.num_cuts = 0
        self.num_unverified_cuts = 0

    def pieces(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        """Yields the pieces of all documents. A document without text gives one empty piece."""
        text, continues, input_bytes = "", False, 0
        for block in blocks:
            text += block.text
            input_bytes += block.input_bytes
            begin = 0
            while len(text) - begin > self._piece_characters + 2 * CONTEXT_CHARACTERS:
                end = self._find_cut(text, begin + self._piece_characters)
                yield Piece(text[begin:end], continues, False, input_bytes)
                begin, continues, input_bytes = end, True, 0
            text = text[begin:]
            if block.ends_document:
                yield Piece(text, continues, True, input_bytes)
                text, continues, input_bytes = "", False, 0

    def _find_cut(self, text: str, wanted: int) -> int:
        """Returns a position less than CONTEXT_CHARACTERS from the wanted one."""
        self.num_cuts += 1
        first = wanted - CONTEXT_CHARACTERS
        for pattern in PLACES:
            matches = pattern.finditer(text, first, wanted + CONTEXT_CHARACTERS)
            places = sorted((match.start() for match in matches), key=lambda place: abs(place - wanted))
            for place in places[:: max(len(places) // MAX_TRIES, 1)]:
                around = text[place - CONTEXT_CHARACTERS : place + CONTEXT_CHARACTERS]
                if place > first and self._encoder.splits_at(around, CONTEXT_CHARACTERS):
                    return place
        self.num_unverified_cuts += 1
        return wanted
