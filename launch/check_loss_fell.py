"""Fails unless a run has learned: the loss of its last steps is below that of its first ones and, with --tokens, below
what a model that looks at no context reaches on these tokens, the entropy of their frequencies.

python launch/check_loss_fell.py runs/a [--by 1.0] [--tokens PREFIX --below 0.5]
"""

import argparse
import statistics
import sys

import numpy

from run_metrics import read_run, series
from token_file import all_tokens

NUM_FIRST, NUM_LAST = 2, 5  # steps whose mean is taken


def entropy_of_frequencies(tokens):
    """In nats a token. tokens: (tokens) integers."""
    frequencies = numpy.bincount(tokens) / len(tokens)
    seen = frequencies[frequencies > 0]
    return float(-(seen * numpy.log(seen)).sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="output_dir of a run")
    parser.add_argument("--by", type=float, default=1.0, help="nats a token below the first steps")
    parser.add_argument("--tokens", metavar="PREFIX", help="of the .bin/.idx pair that the run was trained on")
    parser.add_argument("--below", type=float, default=0.5, help="nats a token below the entropy of the frequencies")
    arguments = parser.parse_args()
    _, losses = series(read_run(arguments.run).train, "loss")
    if len(losses) < NUM_FIRST + NUM_LAST:
        sys.exit(f"{arguments.run}: {len(losses)} steps with a loss are too few to judge")
    first, last = statistics.mean(losses[:NUM_FIRST]), statistics.mean(losses[-NUM_LAST:])
    print(f"loss: {first:.3f} in the first {NUM_FIRST} steps, {last:.3f} in the last {NUM_LAST} of {len(losses)}")
    if not last <= first - arguments.by:
        sys.exit(f"the loss did not fall by {arguments.by}")
    if arguments.tokens is None:
        return
    entropy = entropy_of_frequencies(all_tokens(arguments.tokens))
    print(f"      {entropy:.3f} is what knowing the tokens' frequencies alone gives")
    if not last <= entropy - arguments.below:
        sys.exit(f"the loss is not {arguments.below} below the entropy of the tokens' frequencies")


if __name__ == "__main__":
    main()
