"""Writes rope_frequencies.json: rotary frequencies as computed by transformers and mpmath.

Run it with the Python of the project's environment after adding a case:
    python tests/golden/make_rope_golden.py
Every case has a config.json and sequence lengths. For each length it has
- inverse_frequencies: float32, from transformers' rotary embedding module after a forward pass over that many tokens;
- attention_factor: from the same module;
- angles: position * frequency modulo one turn in radians, for the last position, from mpmath with 60 digits.
"""

import json
from pathlib import Path

import mpmath
import torch
from transformers import AutoConfig, AutoModelForCausalLM

mpmath.mp.dps = 60
FAR_POSITION = 8_000_000
BASE = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 4096,
}
SHORT = [1.0 + 0.05 * i for i in range(32)]
LONG = [1.0 + 1.7 * i for i in range(32)]
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}

CASES = {
    "default": {"rope_theta": 500000.0},
    "default without theta": {},
    "default, new spelling": {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "qwen3": {"model_type": "qwen3", "head_dim": 128, "rope_theta": 1000000},
    "linear, old spelling": {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.5}},
    "linear, new spelling": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3}},
    "dynamic": {"rope_theta": 10000.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "llama3": {"rope_theta": 500000.0, "max_position_embeddings": 131072,
               "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    "llama3, factor 32": {"rope_theta": 500000.0, "head_dim": 128, "max_position_embeddings": 131072,
                          "rope_scaling": {"rope_type": "llama3", **LLAMA3, "factor": 32.0}},
    "yarn": {"rope_theta": 1000000.0, "rope_scaling": YARN},
    "yarn, no truncation": {"rope_theta": 10000.0, "rope_scaling": {**YARN, "truncate": False}},
    "yarn, mscale": {"rope_theta": 10000.0, "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.2}},
    "yarn, mscale alone": {"rope_theta": 10000.0, "rope_scaling": {**YARN, "mscale": 0.707}},
    "yarn, own attention factor": {"rope_theta": 10000.0,
                                   "rope_scaling": {**YARN, "attention_factor": 1.25, "beta_fast": 20, "beta_slow": 2}},
    "yarn, computed factor": {"rope_theta": 10000.0, "rope_scaling": {**YARN, "factor": None}},
    "yarn, without original length": {"rope_theta": 10000.0, "rope_scaling": {"rope_type": "yarn", "factor": 8.0}},
    "yarn, head 128": {"rope_theta": 5000000.0, "head_dim": 128, "max_position_embeddings": 131072,
                       "rope_scaling": {**YARN, "original_max_position_embeddings": 32768}},
    "longrope": {"rope_theta": 10000.0, "original_max_position_embeddings": 1024, "rope_scaling": LONGROPE},
    "longrope, factor": {"rope_parameters": {**LONGROPE, "rope_theta": 10000.0, "factor": 16.0,
                                             "original_max_position_embeddings": 512}},
    "longrope, own attention factor": {"rope_theta": 10000.0, "rope_scaling": {
        **LONGROPE, "attention_factor": 1.5, "original_max_position_embeddings": 2048}},
    "longrope, without original length": {"rope_theta": 10000.0, "rope_scaling": LONGROPE},
}
SEQUENCE_TOKENS = [100, 512, 513, 1024, 1025, 4096, 4097, 6000, 20000, FAR_POSITION + 1]


def transformers_rope(config_json, sequence_tokens):
    """Returns (inverse frequencies float32, attention factor) of a module that saw positions 0 .. sequence_tokens - 1."""
    config = AutoConfig.for_model(**json.loads(json.dumps(config_json)))
    rope = AutoModelForCausalLM.from_config(config).model.rotary_emb
    rope(torch.zeros(1), torch.tensor([[0, sequence_tokens - 1]]))
    return rope.inv_freq.double().tolist(), float(rope.attention_scaling)


def exact_frequencies(config_json, sequence_tokens):
    """The rules of transformers again, in 60 digits. Yarn's bounds are integers or doubles here, too."""
    config = AutoConfig.for_model(**json.loads(json.dumps(config_json)))
    # as the modules do: moves original_max_position_embeddings into the rope parameters
    config.standardize_rope_params()
    rope, max_positions = config.rope_parameters, config.max_position_embeddings
    dims = config.head_dim
    theta, factor = mpmath.mpf(rope["rope_theta"]), rope.get("factor")
    kind = rope["rope_type"]
    if kind == "dynamic":
        ratio = mpmath.mpf(max(sequence_tokens, max_positions)) / max_positions
        theta *= (factor * ratio - (factor - 1)) ** (mpmath.mpf(dims) / (dims - 2))
    frequencies = [theta ** (-mpmath.mpf(dim) / dims) for dim in range(0, dims, 2)]
    if kind == "linear":
        return [frequency / factor for frequency in frequencies]
    if kind == "longrope":
        is_long = sequence_tokens > rope["original_max_position_embeddings"]
        return [f / mpmath.mpf(by) for f, by in zip(frequencies, rope["long_factor" if is_long else "short_factor"])]
    if kind == "llama3":
        low, high = mpmath.mpf(rope["low_freq_factor"]), mpmath.mpf(rope["high_freq_factor"])
        length = rope["original_max_position_embeddings"]
        kept = [min(max((length * f / (2 * mpmath.pi) - low) / (high - low), 0), 1) for f in frequencies]
        return [(1 - keep) * f / factor + keep * f for f, keep in zip(frequencies, kept)]
    if kind == "yarn":
        length = rope["original_max_position_embeddings"]
        factor = factor or mpmath.mpf(max_positions) / length
        bounds = [dims * mpmath.log(length / (turns * 2 * mpmath.pi)) / (2 * mpmath.log(theta))
                  for turns in (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1)]
        if rope.get("truncate", True):
            bounds = [mpmath.floor(bounds[0]), mpmath.ceil(bounds[1])]
        low, high = max(bounds[0], 0), min(bounds[1], dims - 1)
        slowed = [min(max((pair - low) / (high - low), 0), 1) for pair in range(dims // 2)]
        return [f / factor * slow + f * (1 - slow) for f, slow in zip(frequencies, slowed)]
    return frequencies


def main():
    cases = []
    for name, fields in CASES.items():
        config = {**BASE, **fields}
        config["architectures"] = ["Qwen3ForCausalLM" if config["model_type"] == "qwen3" else "LlamaForCausalLM"]
        lengths = SEQUENCE_TOKENS if "dynamic" in name or "longrope" in name else [100, FAR_POSITION + 1]
        results = []
        for tokens in lengths:
            rounded, attention_factor = transformers_rope(config, tokens)
            exact = exact_frequencies(config, tokens)
            for ours, theirs in zip(exact, rounded):
                assert abs(ours / theirs - 1) < 3e-6, (name, tokens, float(ours), theirs)
            angles = [float(mpmath.fmod(frequency * (tokens - 1), 2 * mpmath.pi)) for frequency in exact]
            results.append({"sequence_tokens": tokens, "attention_factor": attention_factor,
                            "inverse_frequencies": rounded, "angles": angles})
        cases.append({"name": name, "config": config, "results": results})
    path = Path(__file__).with_name("rope_frequencies.json")
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    print(f"{path.name}: {len(cases)} cases")


if __name__ == "__main__":
    main()
