"""Named ranges (step, forward, backward, optimizer, evaluation, data) in the traces of profilers.

Megatron-Core calls `config.timers(name).start()` and `.stop()` around its parts; `Ranges` is such a `timers`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

NAMES = {"forward-compute": "forward", "backward-compute": "backward", "optimizer-inner-step": "optimizer"}
"""Other names for Megatron's; the rest keep theirs."""


class Ranges:
    """Ranges for PyTorch's profiler, and as NVTX for others if there is CUDA. Nothing is recorded until `is_on`."""

    def __init__(self) -> None:
        self.is_on = False
        self._open: list[tuple[str, torch.profiler.record_function]] = []

    def __call__(self, name: str, log_level: int | None = None) -> "_Range":
        return _Range(self, NAMES.get(name, name))

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Open a range for a block."""
        self.open(name)
        try:
            yield
        finally:
            self.close(name)

    def open(self, name: str) -> None:
        """Open a range within those that are open."""
        if self.is_on:
            recorded = torch.profiler.record_function(name)
            recorded.__enter__()
            self._open.append((name, recorded))
            if torch.cuda.is_available():
                torch.cuda.nvtx.range_push(name)

    def close(self, name: str) -> None:
        """Close a range, and those in it; does nothing if it is not open, as recording began within it."""
        while any(name == opened for opened, _ in self._open):
            last, recorded = self._open.pop()
            recorded.__exit__(None, None, None)
            if torch.cuda.is_available():
                torch.cuda.nvtx.range_pop()
            if last == name:
                return


class _Range:
    """What Megatron expects a timer to be. Its arguments are for synchronised times, which a trace does not need."""

    def __init__(self, ranges: Ranges, name: str):
        self._ranges = ranges
        self._name = name

    def start(self, barrier: bool = False) -> None:
        self._ranges.open(self._name)

    def stop(self, barrier: bool = False) -> None:
        self._ranges.close(self._name)


RANGES = Ranges()
"""The ranges of this process."""


def connect(config: Any) -> None:
    """Let Megatron open ranges for the part that a configuration of it belongs to."""
    config.timers = RANGES
