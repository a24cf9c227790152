"""A Hugging Face tokenizer: tokenizer.json, and the end-of-text token that the files beside it name."""

import hashlib
import json
from pathlib import Path

from tokenizers import Tokenizer

from input_error import InputError


class TokenizerFolder:
    def __init__(self, path: str):
        self.file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        if not self.file.is_file():
            raise InputError(f"{path}: no tokenizer.json there; expected a folder with one, or the file.")
        self.tokenizer = load_tokenizer(self.file)
        self.sha256 = hashlib.sha256(self.file.read_bytes()).hexdigest()
        # The vocabulary size is the largest id plus one: added tokens may leave gaps.
        self.vocabulary_size = max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def token_id(self, token: str, option: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise InputError(f"{option} {token}: {self.file} has no such token.")
        return number

    def eos_id(self) -> int:
        """Reads the end-of-text token from tokenizer_config.json, else from generation_config.json or config.json."""
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            token = self._field(name, "eos_token")
            if isinstance(token, dict):  # a serialized AddedToken
                token = token.get("content")
            if token is not None:
                return self.token_id(token, f"eos_token of {name}")
        for name in ("generation_config.json", "config.json"):
            number = self._field(name, "eos_token_id")
            if isinstance(number, list):  # any of them ends a text; we use the first
                number = number[0] if number else None
            if number is not None:
                return self._known_id(number, name)
        raise InputError(
            f"no end-of-text token is named beside {self.file}; give it with --eos-token TOKEN, or --no-eos for none."
        )

    def _known_id(self, number: int, name: str) -> int:
        if self.tokenizer.id_to_token(number) is None:
            raise InputError(f"eos_token_id {number} of {self.file.parent / name} is not an id of {self.file}.")
        return number

    def _field(self, name: str, key: str):
        path = self.file.parent / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8")).get(key)
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path} is not a JSON object: {error}.") from error


def load_tokenizer(file: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{file} is not a tokenizer of the Hugging Face tokenizers library: {error}.") from error
    tokenizer.no_truncation()  # saved tokenizers often cut at a model's length
    tokenizer.no_padding()
    return tokenizer
