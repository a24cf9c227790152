"""Makes the folder of a small untrained Llama: adds config.json and random weights to a tokenizer.

python launch/make_quickstart_model.py TOKENIZER_FOLDER OUTPUT_FOLDER

The initial weights are chosen so that forty steps are enough to see learning: token embeddings have variance 1, as large
as what the layers will add to them, and the output projections of the layers are zero. With the usual scale of 0.02 the
averages of attention hide the tokens at first, and the loss stays at the entropy of the token frequencies all the run.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy
from safetensors.numpy import save_file

HIDDEN_SIZE, INTERMEDIATE_SIZE, NUM_LAYERS = 512, 1024, 2
NUM_HEADS, NUM_KEY_VALUE_HEADS, HEAD_DIM = 4, 2, 64
EMBEDDING_SCALE, HEAD_SCALE, PROJECTION_SCALE = 1.0, 0.02, 0.04
SEED = 1


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
        "initializer_range": PROJECTION_SCALE,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": end_of_text,
        "dtype": "float32",
    }


def layer_weights(prefix, normal):
    """normal(rows, columns, scale) draws; the output projections are zero."""
    queries, keys = NUM_HEADS * HEAD_DIM, NUM_KEY_VALUE_HEADS * HEAD_DIM
    return {
        f"{prefix}.input_layernorm.weight": numpy.ones(HIDDEN_SIZE, numpy.float32),
        f"{prefix}.self_attn.q_proj.weight": normal(queries, HIDDEN_SIZE, PROJECTION_SCALE),
        f"{prefix}.self_attn.k_proj.weight": normal(keys, HIDDEN_SIZE, PROJECTION_SCALE),
        f"{prefix}.self_attn.v_proj.weight": normal(keys, HIDDEN_SIZE, PROJECTION_SCALE),
        f"{prefix}.self_attn.o_proj.weight": numpy.zeros((HIDDEN_SIZE, queries), numpy.float32),
        f"{prefix}.post_attention_layernorm.weight": numpy.ones(HIDDEN_SIZE, numpy.float32),
        f"{prefix}.mlp.gate_proj.weight": normal(INTERMEDIATE_SIZE, HIDDEN_SIZE, PROJECTION_SCALE),
        f"{prefix}.mlp.up_proj.weight": normal(INTERMEDIATE_SIZE, HIDDEN_SIZE, PROJECTION_SCALE),
        f"{prefix}.mlp.down_proj.weight": numpy.zeros((HIDDEN_SIZE, INTERMEDIATE_SIZE), numpy.float32),
    }


def random_weights(vocabulary_size):
    generator = numpy.random.default_rng(SEED)

    def normal(rows, columns, scale):
        return scale * generator.standard_normal((rows, columns), dtype=numpy.float32)

    weights = {"model.embed_tokens.weight": normal(vocabulary_size, HIDDEN_SIZE, EMBEDDING_SCALE)}
    for layer in range(NUM_LAYERS):
        weights |= layer_weights(f"model.layers.{layer}", normal)
    weights["model.norm.weight"] = numpy.ones(HIDDEN_SIZE, numpy.float32)
    weights["lm_head.weight"] = normal(vocabulary_size, HIDDEN_SIZE, HEAD_SCALE)
    return weights


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
    weights = random_weights(vocabulary_size)
    save_file(weights, arguments.output / "model.safetensors", metadata={"format": "pt"})
    size = sum(tensor.size for tensor in weights.values())
    print(f"{arguments.output}: an untrained Llama of {size / 1e6:.1f}M parameters, {NUM_LAYERS} layers")


if __name__ == "__main__":
    main()
