"""A rank that fails at once, and gets signals while it records that: run under torchrun with RUN_DIR."""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from llama31 import train
from llama31.run_dir.events import Outcome


def fit(run: train._Run) -> NoReturn:
    raise ValueError("nothing works")


def failure(run: train._Run, error: BaseException) -> Outcome:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), signum)
    return stock(run, error)


if __name__ == "__main__":
    stock = train._Run.failure
    train._Run.fit, train._Run.failure = fit, failure
    train.train(Path(sys.argv[1]))
    sys.exit(1)
