"""Argument types for argparse."""

import argparse
import codecs


def separator(text: str) -> str:
    """Replaces escape sequences such as \\f and \\n, which shells do not interpret."""
    try:
        decoded = codecs.decode(text.encode("latin-1", "backslashreplace"), "unicode_escape")
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid escape sequence: {error.reason}") from error
    if not decoded:
        raise argparse.ArgumentTypeError("must not be empty")
    return decoded


def extension_list(text: str) -> tuple[str, ...]:
    return tuple("." + extension.strip().lstrip(".").lower() for extension in text.split(",") if extension.strip())


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number from 1")
    return int(text)
