"""Snapshots of GPU memory, on PyTorch's interface to CUDA, which is simulated: this machine may have no GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from llama31.config import paths
from llama31.training.memory_snapshot import MemorySnapshots


class Cuda:
    """Records calls of PyTorch's memory interface; memory runs out when `ran_out` is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.recorded: list[int] = []
        monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda max_entries: self.recorded.append(1))
        monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda file: Path(file).write_bytes(b"snapshot"))
        monkeypatch.setattr(torch._C, "_cuda_attach_out_of_memory_observer", self._attach, raising=False)

    def _attach(self, observer: Any) -> None:
        self.ran_out = observer


def test_a_snapshot_when_memory_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda = Cuda(monkeypatch)
    snapshots = MemorySnapshots(tmp_path, 3, records=False)
    snapshots.on_train_end(None, None)
    directory = tmp_path / paths.PROFILE
    assert not directory.exists() and not cuda.recorded, "nothing without need"
    cuda.ran_out(0, 5_000, 80_000, 1_000)
    assert [file.name for file in directory.iterdir()] == ["memory-rank-3.pickle"]
    assert "5,000 bytes wanted, 1,000 free" in capsys.readouterr().out


def test_a_recorded_history_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    MemorySnapshots(tmp_path, 0, records=True).on_train_end(None, None)
    assert cuda.recorded
    assert (tmp_path / paths.PROFILE / "memory-rank-0.pickle").read_bytes() == b"snapshot"
