"""Makes the folder of a small Llama from a tokenizer's: adds a config.json, no weights (for model.init: random).

python launch/make_quickstart_model.py TOKENIZER_FOLDER OUTPUT_FOLDER
"""

import argparse
import json
import shutil
from pathlib import Path

HIDDEN_SIZE, INTERMEDIATE_SIZE, NUM_LAYERS = 256, 1024, 4
NUM_HEADS, NUM_KEY_VALUE_HEADS, HEAD_DIM = 4, 2, 64


def llama_config(vocabulary_size, end_of_text):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary_size,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": INTERMEDIATE_SIZE,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KEY_VALUE_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "max_position_embeddings": 32768,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end_of_text,
        "dtype": "float32",
    }


def num_parameters(vocabulary_size):
    attention = HIDDEN_SIZE * HEAD_DIM * 2 * (NUM_HEADS + NUM_KEY_VALUE_HEADS)
    layer = attention + 3 * HIDDEN_SIZE * INTERMEDIATE_SIZE + 2 * HIDDEN_SIZE
    return vocabulary_size * HIDDEN_SIZE + NUM_LAYERS * layer + HIDDEN_SIZE


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="folder with tokenizer.json and tokenizer_config.json")
    parser.add_argument("output", type=Path, help="folder to write")
    arguments = parser.parse_args()
    shutil.copytree(arguments.tokenizer, arguments.output, dirs_exist_ok=True)
    tokenizer = json.loads((arguments.output / "tokenizer.json").read_text(encoding="utf-8"))
    end_of_text = json.loads((arguments.output / "tokenizer_config.json").read_text(encoding="utf-8"))["eos_token"]
    added_tokens = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocabulary_size = len({*tokenizer["model"]["vocab"], *added_tokens})
    config = llama_config(vocabulary_size, added_tokens[end_of_text])
    (arguments.output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{arguments.output}: a Llama of {num_parameters(vocabulary_size) / 1e6:.1f}M parameters, {NUM_LAYERS} layers")


if __name__ == "__main__":
    main()
