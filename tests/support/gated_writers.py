"""A rank as pretrain_llama31.py's whose checkpoint files are not written before the file GATE exists: RUN_DIR."""

import os
import time
from typing import Any

from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

import pretrain_llama31
from llama31.common import child_processes

write = FileSystemWriterAsync.write_preloaded_data


def write_after_the_gate(*arguments: Any, **others: Any) -> None:
    while not os.path.exists(os.environ["GATE"]):  # noqa: PTH110 - of this rank's environment
        time.sleep(0.05)
    write(*arguments, **others)


if __name__ == "__main__":
    FileSystemWriterAsync.write_preloaded_data = staticmethod(write_after_the_gate)
    pretrain_llama31.main()
elif __name__ == "__mp_main__":
    child_processes.end_spawned()
