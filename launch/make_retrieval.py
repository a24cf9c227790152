"""Plants facts in your own text, so that `hiptrain evaluate` can count how many the model still finds at a distance.

.venv/bin/python launch/make_retrieval.py TOKENS MODEL OUT.safetensors [--length 32768] [--sequences 16] [--facts 32]

A fact is a line with a name and a value, `#define KEY_a3f9g 48213`, that appears twice in a sequence. The model has
found it if it predicts every token of the second value. The first occurrences are spread over all depths of the
sequence, and the distances to the second ones over all lengths from --min-distance. The sequences are spread evenly
over the whole text and do not overlap. OUT has `tokens` (sequences, length + 1) int32 and `facts` (sequences, facts, 3)
int32: positions of the first and the second value, and the number of tokens of the value.
"""

import argparse
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy
from safetensors import SafetensorError
from safetensors.numpy import save_file

from token_file import mapped_tokens

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from argument_types import positive  # noqa: E402
from document_cutter import PieceEncoder  # noqa: E402
from input_error import InputError  # noqa: E402
from tokenizer_folder import TokenizerFolder  # noqa: E402

HEXADECIMAL, LAST_LETTERS = "0123456789abcdef", "ghijkmnpqrstuvwxyz"
NUM_DIGITS = 4  # hexadecimal digits in a name, before its letter
NUM_NAMES = len(HEXADECIMAL) ** NUM_DIGITS * len(LAST_LETTERS)
VALUES = (10000, 100000)


@dataclass
class Line:
    tokens: numpy.ndarray
    value_offset: int
    value_size: int


def name_of(number):
    """Returns a name that is different for each number below NUM_NAMES."""
    number, letter = divmod(number, len(LAST_LETTERS))
    digits = f"{number:0{NUM_DIGITS}x}"
    return f"KEY_{digits}{LAST_LETTERS[letter]}"


def encode_lines(encoder, names, values):
    """The parts of a line are encoded separately, so that the value begins and ends at a token boundary."""
    line_end = encoder.encode([("\n", True)])[0]
    texts = [(f"#define {name}", True) for name in names] + [(f" {value}", True) for value in values]
    encoded = encoder.encode(texts)
    lines = []
    for name, value in zip(encoded[:len(names)], encoded[len(names):]):
        tokens = numpy.array([*line_end, *name, *value, *line_end], numpy.int32)
        lines.append(Line(tokens, len(line_end) + len(name), len(value)))
    return lines


def draw_places(rng, num_facts, num_tokens, min_distance):
    """Draws positions for the lines in num_tokens of text: (facts) int64 for the first and the second occurrence.

    All but the last min_distance tokens are divided into num_facts equal parts, and each part gets the first occurrence
    of one fact. The second occurrence follows after min_distance tokens and a share of the tokens that remain. The shares
    are spread out, too.
    """
    depths = (numpy.arange(num_facts) + rng.random(num_facts)) / num_facts
    shares = (rng.permutation(num_facts) + rng.random(num_facts)) / num_facts
    first = (depths * (num_tokens - min_distance + 1)).astype(numpy.int64)
    rooms = num_tokens - min_distance - first
    return first, first + min_distance + (shares * (rooms + 1)).astype(numpy.int64)


def plant(text, lines, first, second):
    """Returns the text with every line inserted at its two positions, and the facts."""
    places = numpy.concatenate([first, second])
    order = numpy.argsort(places, kind="stable")  # the same on every machine
    pieces, positions = [], numpy.empty(len(places), numpy.int64)
    end = planted = 0
    for index in order:
        line = lines[index % len(lines)]
        pieces += [text[end:places[index]], line.tokens]
        end = places[index]
        positions[index] = end + planted + line.value_offset
        planted += len(line.tokens)
    facts = numpy.stack([*positions.reshape(2, -1), [line.value_size for line in lines]], axis=1)
    return numpy.concatenate([*pieces, text[end:]]), facts.astype(numpy.int32)


def open_text(prefix):
    for suffix in (".idx", ".bin"):
        if not Path(f"{prefix}{suffix}").is_file():
            raise InputError(f"{prefix}{suffix} is no file; expected the prefix of a .bin/.idx pair.")
    try:
        return mapped_tokens(prefix)
    except ValueError as error:
        raise InputError(f"{prefix}.bin and {prefix}.idx are cut short or do not belong together: {error}.") from error


def check_sizes(arguments, num_tokens):
    most = num_tokens // (arguments.length + 1)
    if arguments.sequences > most:
        raise InputError(
            f"--sequences {arguments.sequences}: {arguments.tokens} has {num_tokens:,} tokens, enough for {most} "
            f"sequences of {arguments.length:,} without overlap; give fewer or shorter sequences, or more text."
        )
    if arguments.sequences * arguments.facts > NUM_NAMES:
        raise InputError(
            f"--facts {arguments.facts}: {arguments.sequences} sequences can have at most "
            f"{NUM_NAMES // arguments.sequences:,} facts each, as there are {NUM_NAMES:,} names."
        )


def check_room(arguments, num_text_tokens):
    if num_text_tokens < arguments.min_distance:
        planted = arguments.length + 1 - num_text_tokens
        raise InputError(
            f"--facts {arguments.facts}: the planted lines take {planted:,} of the {arguments.length:,} tokens, which "
            f"leaves too few for --min-distance {arguments.min_distance}; give fewer facts, a smaller distance or "
            "longer sequences."
        )


def make_sequences(arguments, text, encoder):
    """Checks tokens and facts and converts them to the form of the file."""
    rng = numpy.random.default_rng(arguments.seed)
    numbers = rng.choice(NUM_NAMES, (arguments.sequences, arguments.facts), replace=False)
    values = rng.integers(*VALUES, numbers.shape)
    tokens = numpy.empty((arguments.sequences, arguments.length + 1), numpy.int32)
    facts = numpy.empty((*numbers.shape, 3), numpy.int32)
    for i in range(arguments.sequences):
        lines = encode_lines(encoder, [name_of(int(number)) for number in numbers[i]], values[i])
        num_text_tokens = arguments.length + 1 - 2 * sum(len(line.tokens) for line in lines)
        check_room(arguments, num_text_tokens)
        begin = i * len(text) // arguments.sequences
        first, second = draw_places(rng, arguments.facts, num_text_tokens, arguments.min_distance)
        tokens[i], facts[i] = plant(text[begin:begin + num_text_tokens], lines, first, second)
    return tokens, facts


def write_file(path, tensors):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata={"command": shlex.join(sys.argv)})
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {path}: {error}.") from error


def make_file(arguments):
    """Writes the file and returns the facts."""
    folder = TokenizerFolder(arguments.model)
    text = open_text(arguments.tokens)
    check_sizes(arguments, len(text))
    tokens, facts = make_sequences(arguments, text, PieceEncoder(folder.tokenizer))
    if tokens.max() >= folder.vocabulary_size:
        raise InputError(
            f"{arguments.tokens} has the token {tokens.max()}; expected ids below {folder.vocabulary_size}, those of "
            f"{folder.file}."
        )
    write_file(Path(arguments.output), {"tokens": tokens, "facts": facts})
    return facts


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("tokens", metavar="TOKENS", help="prefix of a text's .bin/.idx pair from data/prepare_tokens.py")
    add("model", metavar="MODEL", help="folder of the model whose tokenizer made TOKENS")
    add("output", metavar="OUT", help="the .safetensors file to write")
    add("--length", type=positive, default=8192, metavar="N", help="tokens per sequence, including the facts (8192)")
    add("--sequences", type=positive, default=16, metavar="N", help="number of sequences (16)")
    add("--facts", type=positive, default=16, metavar="N", help="facts per sequence (16)")
    add("--min-distance", type=positive, metavar="N",
        help="smallest distance between the two values of a fact, in tokens (a quarter of --length)")
    add("--seed", type=int, default=0, help="seed of facts and positions (0)")
    arguments = parser.parse_args()
    arguments.min_distance = arguments.min_distance or max(arguments.length // 4, 1)
    if arguments.seed < 0:
        parser.error(f"--seed {arguments.seed}; expected a whole number from 0")
    return arguments


def main():
    arguments = parse_arguments()
    try:
        facts = make_file(arguments)
    except InputError as error:
        sys.exit(f"make_retrieval: {error}")
    distances = facts[..., 1] - facts[..., 0]
    print(
        f"{arguments.output}: {arguments.sequences:,} sequences of {arguments.length:,} tokens with {distances.size:,} "
        f"facts, {distances.min():,} to {distances.max():,} tokens apart (median {numpy.median(distances):,.0f})"
    )


if __name__ == "__main__":
    main()
