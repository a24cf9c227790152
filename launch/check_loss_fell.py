"""Checks that a run has learned: the loss of its last steps must be below that of its first steps. With --tokens it
must also be below the entropy of the token frequencies, which is the best loss of a model that sees no context.

python launch/check_loss_fell.py runs/a [--by 1.0] [--tokens PREFIX --below 0.5]
"""

import argparse
import statistics
import sys

import numpy

from run_metrics import read_run, series
from token_file import all_tokens

NUM_FIRST, NUM_LAST = 2, 5  # number of steps to average


def entropy_of_frequencies(tokens):
    """Entropy in nats per token. tokens: (tokens) integers."""
    frequencies = numpy.bincount(tokens) / len(tokens)
    seen = frequencies[frequencies > 0]
    return float(-(seen * numpy.log(seen)).sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="output_dir of a run")
    parser.add_argument("--by", type=float, default=1.0, help="how far the loss must fall, in nats per token")
    parser.add_argument("--tokens", metavar="PREFIX", help="prefix of the .bin/.idx pair of the training data")
    parser.add_argument("--below", type=float, default=0.5, help="how far below the entropy, in nats per token")
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
    print(f"      {entropy:.3f} is the entropy of the token frequencies")
    if not last <= entropy - arguments.below:
        sys.exit(f"the loss is not {arguments.below} below the entropy of the token frequencies")


if __name__ == "__main__":
    main()
