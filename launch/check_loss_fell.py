"""Fails unless the loss of a run's last steps is below that of its first ones.

python launch/check_loss_fell.py runs/a [--by 1.0]
"""

import argparse
import statistics
import sys

from run_metrics import read_run, series

NUM_FIRST, NUM_LAST = 2, 5  # steps whose mean is taken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="output_dir of a run")
    parser.add_argument("--by", type=float, default=1.0, help="nats a token")
    arguments = parser.parse_args()
    _, losses = series(read_run(arguments.run).train, "loss")
    if len(losses) < NUM_FIRST + NUM_LAST:
        sys.exit(f"{arguments.run}: {len(losses)} steps with a loss are too few to judge")
    first, last = statistics.mean(losses[:NUM_FIRST]), statistics.mean(losses[-NUM_LAST:])
    print(f"loss: {first:.3f} in the first {NUM_FIRST} steps, {last:.3f} in the last {NUM_LAST} of {len(losses)}")
    if not last <= first - arguments.by:
        sys.exit(f"the loss did not fall by {arguments.by}")


if __name__ == "__main__":
    main()
