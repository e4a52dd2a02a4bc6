"""A rank as pretrain_llama31.py's, of which rank 1 takes long to read each training sequence: RUN_DIR."""

import os
import time
from typing import Any

PAUSE = 0.03  # seconds


def slow_down() -> None:
    """Has the training set of rank 1 sleep before it gives a sequence."""
    from llama31.data.datasets import TrainingSequences

    stock = TrainingSequences.__getitem__

    def slow(self: TrainingSequences, index: int) -> Any:
        time.sleep(PAUSE)
        return stock(self, index)

    TrainingSequences.__getitem__ = slow


if __name__ == "__main__":
    import pretrain_llama31

    if os.environ["RANK"] == "1":
        slow_down()
    pretrain_llama31.main()
elif __name__ == "__mp_main__":  # multiprocessing spawned this process from a rank
    from llama31.common import child_processes

    child_processes.end_spawned()
