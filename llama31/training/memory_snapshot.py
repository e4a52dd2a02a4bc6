"""Snapshots of the memory that PyTorch allocated on a rank's GPU, for https://pytorch.org/memory_viz."""

import contextlib
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from llama31.config import paths

ENTRIES = 100_000  # newest allocations and frees to keep: some steps of a large model


class MemorySnapshots(Callback):
    """Write RUN_DIR/profile/memory-rank-N.pickle when memory runs out, and with `records` also at the end of a run.

    With `records` (MEMORY_SNAPSHOT) a snapshot has the history of allocations, with the code that made them. Without,
    it has what is allocated; that costs nothing before memory runs out.
    """

    def __init__(self, run_dir: Path, rank: int, *, records: bool):
        self.file = run_dir / paths.PROFILE / f"memory-rank-{rank}.pickle"
        self.records = records
        if records:
            torch.cuda.memory._record_memory_history(max_entries=ENTRIES)
        # Not when the exception arrives: then the memory is free again.
        torch._C._cuda_attach_out_of_memory_observer(self._ran_out)

    def _ran_out(self, device: int, wanted: int, total: int, free: int) -> None:
        with contextlib.suppress(OSError):  # a full disk; the failure itself is the outcome
            print(f"out of memory: {wanted:,} bytes wanted, {free:,} free; snapshot: {self.file}", flush=True)
            self._write()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a snapshot if the history was recorded."""
        if self.records:
            self._write()

    def _write(self) -> None:
        self.file.parent.mkdir(exist_ok=True)
        partial = self.file.with_name(f".{self.file.name}")
        torch.cuda.memory._dump_snapshot(str(partial))
        partial.replace(self.file)
