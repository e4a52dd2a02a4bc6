"""Keep signals from processes that a save starts."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def held(signals: set[signal.Signals]) -> Iterator[None]:
    """Block signals within this context, and permanently in processes started within it.

    Slurm signals all processes of a rank, and Megatron's checkpoint writers must survive that.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    resource_tracker.ensure_running()  # its first call starts a process and unblocks SIGTERM
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
