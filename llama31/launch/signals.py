"""Forward the launcher's signals to the ranks."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from types import FrameType

from llama31.run_dir import record
from llama31.run_dir.events import ABORTED, INTERRUPTED, Outcome


def wait(ranks: subprocess.Popen, run_dir: Path) -> int:
    """Wait for the ranks. Returns torchrun's exit code.

    Signals that would end this process are forwarded, so that the ranks can close their logs. They get SIGINT, because
    torchrun sends SIGTERM to the remaining ranks when one has failed. If the run saves checkpoints, SIGTERM and SIGUSR1
    mean that time runs out: a rank gets SIGUSR1 and saves one. It gets it directly, since torchrun would allow only
    30 seconds. Ranks that end without an outcome after that, as while they start, get one here.
    """
    is_interrupted = False

    def forward(signum: int, _: FrameType | None) -> None:
        nonlocal is_interrupted
        with contextlib.suppress(ProcessLookupError):
            saver = record.load_saver(run_dir) if signum in (signal.SIGTERM, signal.SIGUSR1) else None
            if saver and ranks.poll() is None:
                os.kill(saver, signal.SIGUSR1)
            else:
                is_interrupted = True
                ranks.send_signal(signal.SIGINT)

    # SIGHUP: the terminal was closed. Under nohup it is ignored, which must stay so.
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    former = {
        signum: signal.signal(signum, forward) for signum in ends if signal.getsignal(signum) is not signal.SIG_IGN
    }
    try:
        returncode = ranks.wait()
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
    if is_interrupted and record.load_outcome(run_dir) is None:
        reason = "interrupted; the ranks exited without recording an outcome"
        record.store_outcome(run_dir, Outcome(ABORTED, reason, INTERRUPTED, 0, 0))
    return returncode
