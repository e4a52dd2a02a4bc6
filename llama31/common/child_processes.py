"""Processes that end with the process that started them, however that ends: the kernel kills them (prctl(2) of Linux).

A rank that is killed by SIGKILL, as by the OOM killer, cannot end what it started. Megatron's server for the results of
its checkpoint writers, for one, would wait for ever.
"""

import ctypes
import os
import signal
import threading

SPAWNER = "LLAMA31_SPAWNER"
"""Environment variable: id of the process that its spawned children end with."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here, as a fork of a process with threads should not load it


def end_with(parent: int) -> None:
    """Have this process killed when `parent`, which started it, ends.

    The kernel looks at the thread of the parent that started this process, so that must be one that stays.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def end_children() -> None:
    """Have what multiprocessing starts from this process killed when it ends, and so on for what that starts.

    Forks of the main thread are (data loaders, writers of checkpoints); spawned processes must call `end_spawned`.
    """
    os.environ[SPAWNER] = str(os.getpid())
    from_main_thread = True

    def before_fork() -> None:
        nonlocal from_main_thread
        from_main_thread = threading.current_thread() is threading.main_thread()

    def after_fork() -> None:
        parent = int(os.environ[SPAWNER])
        os.environ[SPAWNER] = str(os.getpid())
        if from_main_thread:  # others may end before the child has
            end_with(parent)

    os.register_at_fork(before=before_fork, after_in_child=after_fork)


def end_spawned() -> None:
    """Have this process, which multiprocessing spawned, killed when its spawner ends, and what it starts with it."""
    end_with(int(os.environ[SPAWNER]))
    end_children()
