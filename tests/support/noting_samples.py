"""A rank as pretrain_llama31.py's, that also notes which training sequences it reads: RUN_DIR."""

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


if __name__ == "__main__":
    import pretrain_llama31

    note_samples(Path(sys.argv[1]))
    pretrain_llama31.main()
