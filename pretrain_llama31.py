#!/usr/bin/env python3
"""Main program of every rank: pretrain_llama31.py RUN_DIR, started by torchrun or srun (see run_llama31.sh)."""

import contextlib
import multiprocessing
import os
import sys
from pathlib import Path

from llama31.common import child_processes, temporary_files
from llama31.launch import nsys
from llama31.train import train


def main() -> None:
    """Train. A failing rank exits with 1, so that its launcher ends the others."""
    child_processes.end_children()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # under srun, Slurm ends the remaining processes of a task
        child_processes.end_with(os.getppid())
    nsys.enter(Path(sys.argv[1]))  # nsys then ends with torchrun, and this process, executed again, with nsys
    _, orderly = train(Path(sys.argv[1]))
    with contextlib.suppress(OSError):  # a full disk
        sys.stdout.flush()
        sys.stderr.flush()
    for child in multiprocessing.active_children():  # Megatron's checkpoint writer
        child.kill()
    temporary_files.remove()
    # Threads of a broken process group may never end.
    os._exit(0 if orderly else 1)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # multiprocessing spawned this process from a rank
    child_processes.end_spawned()
