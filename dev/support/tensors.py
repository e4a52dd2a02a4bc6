"""Read the tensors of checkpoints by torch's own code and compare them, for tests and for tools of dev/."""

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from llama31.checkpoint.formats import nemo


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the full tensors of a checkpoint, merged over the ranks: weights and optimizer state."""
    state: dict[str, Any] = {}
    reader = FileSystemReader(checkpoint / nemo.WEIGHTS)
    _load_state_dict(state, storage_reader=reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    found = {name: value for name, value in _flat(state).items() if isinstance(value, torch.Tensor)}
    assert any(name.startswith("optimizer") for name in found), sorted(found)[:5]
    return found


def common(checkpoint: Path) -> dict[str, Any]:
    """Return the values that are not sharded tensors, by path: schedule, loops, data position, random states."""
    return _flat(torch.load(checkpoint / nemo.WEIGHTS / "common.pt", weights_only=True))


def different(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return the names whose values differ in any bit."""
    return [
        name for name in sorted({*ours, *theirs}) if not _same(ours.get(name, "missing"), theirs.get(name, "missing"))
    ]


def _flat(state: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        parts = state.items()
    elif isinstance(state, list | tuple):
        parts = enumerate(state)
    else:
        return {prefix: state}
    return {name: value for key, part in parts for name, value in _flat(part, f"{prefix}.{key}".lstrip(".")).items()}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)
