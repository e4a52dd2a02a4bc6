"""A rank of dev.bench.save: trains as a rank of a run does, and saves in turns by the modes that are compared."""

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama31.common import child_processes

MODES = ("synchronous", "ours", "peer")
SLOW_FIRST = 3  # steps that choose kernels and allocate memory


class Turns:
    """Saves in turns after a run's steps, and measures: called after each step."""

    def __init__(self, results: Path, rounds: int, quiet: int):
        self._results, self._rounds, self._quiet = results, rounds, quiet
        self._turn = -len(MODES)  # the first round warms up
        self._steps = -SLOW_FIRST
        self._completed: Callable[[], bool] | None = None
        self._measured: list[dict[str, dict[str, float]]] = []
        self._during: list[float] = []
        self._after: list[float] = []
        self._began = self._waited = self._whole = 0.0
        self._ended = 0.0  # the last call

    def step_ended(self, callback: Any, trainer: Any) -> None:
        """Save, or see whether the save is complete."""
        now = time.perf_counter()
        step, self._steps = now - self._ended, self._steps + 1
        if self._completed:
            self._during.append(step)
            if self._completed():
                self._completed, self._whole, self._steps = None, time.perf_counter() - self._began, 0
            self._waited += time.perf_counter() - now
        elif self._steps > 0:
            self._after.append(step)
        if self._steps >= self._quiet and not self._completed:
            self._note()
            if self._turn == self._rounds * len(MODES):
                if int(os.environ["RANK"]) == 0:
                    self._results.write_text(json.dumps(self._measured))
                os._exit(0)
            self._during, self._after, self._steps = [], [], 0
            self._began = now = time.perf_counter()
            self._completed = start(MODES[self._turn % len(MODES)], callback, trainer)
            self._waited = time.perf_counter() - now
            self._turn += 1
            if not self._completed:
                self._whole = self._waited
        self._ended = time.perf_counter()

    def _note(self) -> None:
        """Note the values of the turn before."""
        mode, number = (self._turn - 1) % len(MODES), (self._turn - 1) // len(MODES)
        if number < 0 or self._turn < 1:
            return
        quiet = statistics.mean(self._after)
        slower = statistics.mean(self._during) / quiet if self._during else 1.0
        values = {"waited": self._waited, "slower": slower, "whole": self._whole, "quiet": quiet}
        if not mode:
            self._measured.append({})
        self._measured[-1][MODES[mode]] = values


def start(mode: str, callback: Any, trainer: Any) -> Callable[[], bool] | None:
    """Start a save, and return a function that returns whether it is complete; None if it already is."""
    from nemo.utils.callbacks.dist_ckpt_io import AsyncFinalizableCheckpointIO

    saver, strategy = callback.saver, trainer.strategy
    if mode == "ours":
        saver.save(trainer, callback.step, callback.consumed_samples, None)
        return lambda: saver.completed(wait=False) is not None
    if mode == "synchronous":
        background, saver._background = saver._background, None
        saver.save(trainer, callback.step, callback.consumed_samples, None)
        saver._background = background
        return None
    path = saver.root / "peer"
    if trainer.is_global_zero:
        shutil.rmtree(path, ignore_errors=True)
    usual = strategy.checkpoint_io
    peer = AsyncFinalizableCheckpointIO(usual)
    usual.async_save, strategy.checkpoint_io = True, peer
    trainer.save_checkpoint(path)
    usual.async_save, strategy.checkpoint_io = False, usual
    return peer.maybe_finalize_save_checkpoint


def main() -> None:
    """Train."""
    run_dir, results, rounds, quiet = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    child_processes.end_children()
    from llama31 import train
    from llama31.training.benchmark_callback import BenchmarkCallback

    turns = Turns(results, rounds, quiet)

    def save_in_turns(self: Any, trainer: Any) -> None:
        turns.step_ended(self, trainer)

    BenchmarkCallback._save_if_due = save_in_turns  # type: ignore[method-assign]
    train.train(run_dir)
    os._exit(1)  # the turns end the run


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # multiprocessing spawned this process from a rank
    child_processes.end_spawned()
