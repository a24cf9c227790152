"""Writes the folder of a small Llama: config.json and the tokenizer's files, no weights (for model.init: random).

python launch/make_quickstart_model.py TOKENIZER_FOLDER OUTPUT_FOLDER
"""

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import LlamaConfig, PreTrainedTokenizerFast

HIDDEN_SIZE = 256
NUM_LAYERS = 6
MAX_POSITIONS = 32768


def save_tokenizer(tokenizer_folder, output):
    """Returns (vocabulary size, id of the end of a text)."""
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    settings = json.loads((tokenizer_folder / "tokenizer_config.json").read_text())
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=settings["eos_token"])
    wrapped.save_pretrained(output)
    return tokenizer.get_vocab_size(), wrapped.eos_token_id


def llama_config(vocabulary_size, end_of_text):
    return LlamaConfig(
        architectures=["LlamaForCausalLM"], vocab_size=vocabulary_size, hidden_size=HIDDEN_SIZE,
        intermediate_size=3 * HIDDEN_SIZE, num_hidden_layers=NUM_LAYERS, num_attention_heads=4, num_key_value_heads=2,
        head_dim=64, max_position_embeddings=MAX_POSITIONS, rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=end_of_text, dtype="bfloat16")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="folder with tokenizer.json and tokenizer_config.json")
    parser.add_argument("output", type=Path, help="folder to write")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    vocabulary_size, end_of_text = save_tokenizer(arguments.tokenizer, arguments.output)
    llama_config(vocabulary_size, end_of_text).save_pretrained(arguments.output)
    print(f"{arguments.output}: Llama with {NUM_LAYERS} layers of {HIDDEN_SIZE}, vocabulary {vocabulary_size}")


if __name__ == "__main__":
    main()
