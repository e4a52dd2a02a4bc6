"""Kill child processes when their parent ends, however it ends, by prctl(2) of Linux.

A rank that is killed by SIGKILL, as by the OOM killer, cannot stop what it started. The process in which Megatron
collects the results of its checkpoint writers, for one, would wait forever.
"""

import ctypes
import os
import signal
import threading

SPAWNER = "LLAMA31_SPAWNER"
"""Environment variable: id of the process whose end kills the processes that it spawned."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: a fork of a process with threads should not load it


def end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process `parent`, ends.

    The kernel watches the thread that started this process, so that thread must last as long as the parent.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    if os.getppid() != parent:  # the parent ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def end_children() -> None:
    """Have children that multiprocessing starts from this process, and their children, killed when it ends.

    Covers forks of the main thread (data loaders, checkpoint writers). Spawned processes must call `end_spawned`.
    """
    os.environ[SPAWNER] = str(os.getpid())
    from_main_thread = True

    def before_fork() -> None:
        nonlocal from_main_thread
        from_main_thread = threading.current_thread() is threading.main_thread()

    def after_fork() -> None:
        parent = int(os.environ[SPAWNER])
        os.environ[SPAWNER] = str(os.getpid())
        if from_main_thread:  # another thread may end before the child does
            end_with(parent)

    os.register_at_fork(before=before_fork, after_in_child=after_fork)


def end_spawned() -> None:
    """Have this process, spawned by multiprocessing, killed when its spawner ends, and its own children with it."""
    end_with(int(os.environ[SPAWNER]))
    end_children()
