"""Makes small Hugging Face model folders with random weights, one of each family that hiptrain reads.

    python tests/golden/make_tiny_models.py FOLDER [NAME ...]

As a module: make_tiny_model(name, folder) for a name in TINY_MODELS. Weights are the same at every call.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY_SIZE = 320
SIZES = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
SMOOTH = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
SHORT_FACTOR = [1.0 + 0.1 * pair for pair in range(8)]
LONG_FACTOR = [1.0 + 0.9 * pair for pair in range(8)]
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": SHORT_FACTOR, "long_factor": LONG_FACTOR}


@dataclass
class TinyModel:
    model_type: str
    fields: dict = field(default_factory=dict)
    rope: dict = field(default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0})
    dtype: torch.dtype = torch.float32
    max_shard_size: str = "5GB"
    spelling: str = "new"  # spelling of the rotary fields in config.json: "old" has rope_theta and rope_scaling


TINY_MODELS = {
    "llama2": TinyModel("llama", {"num_key_value_heads": 4}, dtype=torch.float16, max_shard_size="60KB",
                        spelling="old"),
    "llama3.1": TinyModel("llama", rope={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, **SMOOTH},
                          dtype=torch.bfloat16, spelling="old"),
    "llama3.2": TinyModel("llama", {"tie_word_embeddings": True, "head_dim": 24},
                          {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, **SMOOTH},
                          dtype=torch.bfloat16, max_shard_size="100KB"),
    "llama, biases": TinyModel("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, one KV head": TinyModel("llama", {"num_key_value_heads": 1}),
    "llama, linear": TinyModel("llama", rope={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
                               spelling="old"),
    "llama, dynamic": TinyModel("llama", {"max_position_embeddings": 512},
                                {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}, spelling="old"),
    "llama, yarn": TinyModel("llama", rope={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
                                            "original_max_position_embeddings": 512}),
    "llama, yarn with mscale": TinyModel("llama", rope={
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 512,
        "mscale": 0.8, "mscale_all_dim": 1.3, "truncate": False, "beta_fast": 16.0}, spelling="old"),
    "llama, longrope beyond": TinyModel("llama", rope={**LONGROPE, "original_max_position_embeddings": 1024}),
    "llama, longrope within": TinyModel("llama", rope={**LONGROPE, "original_max_position_embeddings": 2048},
                                        spelling="old"),
    "mistral": TinyModel("mistral", {"sliding_window": None, "head_dim": 32}, spelling="old"),
    "mistral, long window": TinyModel("mistral", {"sliding_window": 4096}, dtype=torch.bfloat16),
    "qwen2": TinyModel("qwen2", {"tie_word_embeddings": True}, {"rope_type": "default", "rope_theta": 1000000.0},
                       dtype=torch.bfloat16, spelling="old"),
    "qwen2.5": TinyModel("qwen2", {"use_sliding_window": False, "sliding_window": 512, "max_window_layers": 1},
                         {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
                          "original_max_position_embeddings": 1024}, max_shard_size="80KB"),
    "qwen3": TinyModel("qwen3", {"head_dim": 32, "tie_word_embeddings": True},
                       {"rope_type": "default", "rope_theta": 1000000.0}, dtype=torch.bfloat16),
    "qwen3, biases": TinyModel("qwen3", {"head_dim": 16, "attention_bias": True}, spelling="old"),
}


def randomize(model):
    """Weights for which every part matters: activations stay near 1, norm weights are not 1 and biases are not 0."""
    generator = torch.Generator().manual_seed(20240607)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise * (1 if "embed" in name else parameter.shape[1] ** -0.5))
            else:
                parameter.copy_(noise * 0.2 + (1 if "norm" in name else 0))
        if model.config.tie_word_embeddings:
            model.lm_head.weight.mul_(model.config.hidden_size ** -0.5)


def write_old_spelling(path):
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n")


def write_tokenizer(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY_SIZE, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    fast.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    fast.save_pretrained(folder)


def make_tiny_model(name, folder):
    tiny, folder = TINY_MODELS[name], Path(folder)
    config = AutoConfig.for_model(tiny.model_type, **{**SIZES, **tiny.fields}, rope_parameters=dict(tiny.rope))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomize(model)
    model.to(tiny.dtype).save_pretrained(folder, max_shard_size=tiny.max_shard_size)
    if tiny.spelling == "old":
        write_old_spelling(folder / "config.json")
    write_tokenizer(folder)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(TINY_MODELS), help="default: all")
    arguments = parser.parse_args()
    for name in arguments.names:
        print(make_tiny_model(name, arguments.folder / name.replace(", ", "_").replace(" ", "_")))


if __name__ == "__main__":
    main()
