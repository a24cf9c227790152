"""Compares logits of `hiptrain evaluate --logits` with those of transformers on the same tokens; fails if they differ.

python launch/compare_logits.py MODEL_FOLDER LOGITS.safetensors TOKENS_PREFIX [--tolerance 1e-3]
The logits belong to the first sequence, which must start with the first document of TOKENS_PREFIX.bin.
"""

import argparse
import sys
from pathlib import Path

import numpy
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from token_file import first_document


def transformers_logits(model_folder, tokens):
    """Returns logits of dense attention: (tokens, vocabulary) float32."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.from_numpy(tokens)[None]).logits[0].numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("logits", type=Path)
    parser.add_argument("tokens", help="prefix of a .bin/.idx pair")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest absolute difference")
    arguments = parser.parse_args()
    ours = load_file(arguments.logits)["logits"]
    tokens = first_document(arguments.tokens)[: len(ours)]
    theirs = transformers_logits(arguments.model, tokens)
    difference = float(numpy.abs(ours[: len(tokens)] - theirs).max())
    print(f"logits of {len(tokens)} tokens: largest difference from transformers {difference:.2e}, "
          f"largest logit {numpy.abs(theirs).max():.2f}")
    if not difference <= arguments.tolerance:
        sys.exit(f"the difference is larger than {arguments.tolerance}")


if __name__ == "__main__":
    main()
