"""Starts processes like a rank, prints "ready" when they run, and waits: KIND of test_child_processes.py."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Event

from llama31.common import child_processes


def wait(ready: Event) -> None:
    ready.set()
    signal.pause()


def fork_and_wait(ready: Event) -> None:
    multiprocessing.get_context("fork").Process(target=wait, args=(ready,)).start()
    signal.pause()


def child(context: BaseContext) -> None:
    """Start a child that ignores SIGTERM, as Megatron's do, and has a child itself; wait until both run."""
    ready = context.Event()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    context.Process(target=fork_and_wait, args=(ready,)).start()
    ready.wait()


def load() -> object:
    from torch.utils.data import DataLoader

    loader = iter(DataLoader(range(10_000), num_workers=2, persistent_workers=True))
    next(loader)
    return loader


def fork_in_a_thread() -> None:
    """Starts a child in a thread that ends before the child does; says how the child ended."""
    ours, theirs = multiprocessing.Pipe()

    def run() -> None:
        ours.recv()
        os._exit(7)

    process = multiprocessing.get_context("fork").Process(target=run)
    thread = threading.Thread(target=process.start)
    thread.start()
    thread.join()
    print("ready", flush=True)
    theirs.send("end")
    process.join()
    print("exit code", process.exitcode)


def main(kind: str) -> None:
    child_processes.end_children()
    if kind == "thread":
        fork_in_a_thread()
        return
    held: object = None
    if kind == "data loader":
        held = load()
    else:
        child(multiprocessing.get_context(kind.rpartition(" ")[2]))
    print("ready", flush=True)
    signal.pause()
    del held


if __name__ == "__main__":
    main(sys.argv[1])
elif __name__ == "__mp_main__":
    child_processes.end_spawned()
