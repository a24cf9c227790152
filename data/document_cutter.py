"""Long documents cut into pieces whose tokens, put together, are the tokens of the whole.

A tokenizer run over a whole book is one process and much memory, and some take more than linear time. Pieces of
PIECE_CHARACTERS keep it linear and spread one document over all workers.

Where to cut. A byte-level BPE first splits the text with a regular expression and never merges across a split. A cut
is safe where the expression splits in any case: behind a line's end that stands between two characters that are no
spaces, every known one does (GPT-2, Llama 3, Qwen; o200k not before a slash). Inside a run of spaces no place is safe:
`\\s+(?!\\S)` looks ahead. We trust no rule: each place is tried on the text around it, and taken only if the two sides
encoded apart give the tokens of both encoded together. Without line ends, places between words are tried, then any.

A piece that goes on is encoded behind a line's end, whose tokens are then removed: tokenizers of the SentencePiece
family put a space before every text, which must not be put in the middle of a document.

What this cannot promise: the check sees CONTEXT_CHARACTERS on both sides. A tokenizer without pre-tokenization whose
choice depends on text further away could differ from the whole at a cut (periodic text without spaces can do this).
Where no place near the wanted one passes, as in a run of spaces, the cut is made all the same and counted in
num_unverified_cuts.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from text_sources import Block

PIECE_CHARACTERS = 1 << 18
CONTEXT_CHARACTERS = 2048
MAX_TRIES = 24  # of each kind of place
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
    continues: bool  # not the first of its document
    ends_document: bool
    input_bytes: int


class PieceEncoder:
    """Token ids of pieces; the same in every process."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._line_end_ids = self._encode([LINE_END])[0]

    def encode(self, pieces: list[tuple[str, bool]]) -> list[list[int]]:
        """Of (text, continues) each."""
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
        return self._encode([text])[0]  # an unverified cut, where our line end merged with the text


class DocumentCutter:
    def __init__(self, tokenizer: Tokenizer, piece_characters: int = PIECE_CHARACTERS):
        self._encoder = PieceEncoder(tokenizer)
        self._piece_characters = piece_characters
        self.num_cuts = 0
        self.num_unverified_cuts = 0

    def pieces(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        """Documents without text give one empty piece."""
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
        """A place less than CONTEXT_CHARACTERS from the wanted one."""
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
