"""Run the product's commands under injected faults, and judge what each leaves behind.

    python3 -m dev.faults DIRECTORY [--target NAME ...] [--count 25] [--seed 0] [--minutes M]
    python3 -m dev.faults DIRECTORY --target NAME --fault FAULT
    python3 -m dev.faults DIRECTORY --wrong

Each command (dev/faults/targets/) runs undisturbed first, which tells its calls on files; then `count` times, each time
under one random fault (fault.py). After each try a judge (judge.py) compares exit code, messages and files with the
undisturbed ones, and the command is repeated without the fault. For each wrong try, the command that repeats it is
printed; it uses the second form, which keeps output and files in DIRECTORY/NAME/faulted and kept. Results go to
DIRECTORY/results.jsonl; another call continues. dev.faults.table makes a table of them. Needs a C compiler; faults of
real file systems also need root. Exit code 1 if a try was wrong.
"""

import argparse
import sys
from pathlib import Path

from dev.faults import campaign
from dev.faults.targets import TARGETS


def main() -> None:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="dev.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--target", action="append", choices=TARGETS, help="default: all")
    parser.add_argument("--count", type=int, default=25, help="faults that strike, for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no try after this time")
    parser.add_argument("--stop-seconds", type=float, default=2, help="how long a stopped process stays so")
    parser.add_argument("--fault", help="this fault only")
    parser.add_argument("--wrong", action="store_true", help="repeat the tries whose newest result is wrong")
    options = parser.parse_args()
    chosen = [TARGETS[name] for name in options.target or TARGETS]
    sys.exit(campaign.run(options.directory.absolute(), chosen, options))


if __name__ == "__main__":
    main()
