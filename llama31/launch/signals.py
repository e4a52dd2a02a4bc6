"""Signals to the launcher, handed on to the ranks."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from types import FrameType

from llama31.run_dir import record


def wait(ranks: subprocess.Popen, run_dir: Path) -> int:
    """Waits for the ranks and gives torchrun's exit code.

    What is to end this process is handed to them, so that they can close their logs.
    They get SIGINT, for SIGTERM is what torchrun sends to the ranks that are left when one has failed. But where they
    save checkpoints, a warning that time runs out, SIGTERM or SIGUSR1, has them save one: a rank gets SIGUSR1, past
    torchrun, which would give it 30 seconds.
    """

    def hand_on(signum: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            saver = record.load_saver(run_dir) if signum in (signal.SIGTERM, signal.SIGUSR1) else None
            if saver and ranks.poll() is None:
                os.kill(saver, signal.SIGUSR1)
            else:
                ranks.send_signal(signal.SIGINT)

    # SIGHUP: the terminal was closed; under nohup it is ignored, and stays so.
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    heard = [signum for signum in ends if signal.getsignal(signum) is not signal.SIG_IGN]
    former = {signum: signal.signal(signum, hand_on) for signum in heard}
    try:
        return ranks.wait()
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
