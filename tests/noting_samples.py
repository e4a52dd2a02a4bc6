"""Runs llama31 as run_llama31.sh does, with ranks that note which training sequences they read: NAME=value ...

The launcher and the ranks are the product's own; the ranks start here instead of in pretrain_llama31.py.
"""

import os
import sys
from pathlib import Path
from typing import Any

NAME = "samples-rank-{}.txt"


def note_samples(run_dir: Path) -> None:
    """Has the training set write down the part and the number of each sequence that is read of it."""
    from llama31.data.datasets import TrainingSequences

    file = (run_dir / NAME.format(os.environ["RANK"])).open("a", buffering=1)
    stock = TrainingSequences.__getitem__

    def noting(self: TrainingSequences, index: int) -> Any:
        file.write(f"{Path(self.dataset_path).name} {index}\n")
        return stock(self, index)

    TrainingSequences.__getitem__ = noting


def main() -> None:
    if "RANK" in os.environ:
        import pretrain_llama31

        note_samples(Path(sys.argv[1]))
        pretrain_llama31.main()
    from llama31 import launch, local, paths

    stock = local.command
    trainer = str(paths.REPOSITORY / "pretrain_llama31.py")
    local.command = lambda *of: [__file__ if word == trainer else word for word in stock(*of)]
    sys.exit(launch.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
