"""A rank as pretrain_llama31.py's whose writers of checkpoints never end: RUN_DIR, with a FIFO in STALLED_AT.

Each writer first puts its process id into the FIFO, a line of its own.
"""

import os
import signal
from typing import Any

from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

import pretrain_llama31
from llama31.common import child_processes


def stall(*_: Any, **__: Any) -> None:
    with open(os.environ["STALLED_AT"], "w", encoding="utf-8") as fifo:
        fifo.write(f"{os.getpid()}\n")
    signal.pause()


if __name__ == "__main__":
    FileSystemWriterAsync.write_preloaded_data = staticmethod(stall)
    pretrain_llama31.main()
elif __name__ == "__mp_main__":
    child_processes.end_spawned()
