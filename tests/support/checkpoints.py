"""Checkpoints for tests: a few bytes that stand for one, and the tensors of real ones, read by torch's own code."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from runs import arguments
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from llama31.checkpoint import identity, store
from llama31.checkpoint.formats import nemo
from llama31.common.files import size_and_sha256
from llama31.config.resolve import resolve
from llama31.launch import prepare
from llama31.plan import validate
from llama31.settings import Settings

DATA_FILE = f"{nemo.WEIGHTS}/__0_0.distcp"


def settings_of(given: dict[str, str], *more: str) -> Settings:
    """What the launcher makes of settings."""
    return prepare.with_absolute_paths(resolve([*arguments(given), *more], {})).settings


def save(given: dict[str, str], root: Path, job: int, step: int, **of_manifest: Any) -> Path:
    """A checkpoint of these settings whose weights are a few bytes."""
    settings = settings_of(given)
    seed = int(settings.seeds)
    path = root / store.name(seed, job, step)
    (path / nemo.WEIGHTS).mkdir(parents=True)
    (path / nemo.CONTEXT).mkdir()
    (path / DATA_FILE).write_bytes(bytes(range(256)) * 10)
    (path / nemo.CONTEXT / "model.yaml").write_text("config: {}\n")
    manifest = store.CheckpointManifest(
        seed=seed,
        job=job,
        step=step,
        consumed_samples=step * settings.gbs,
        identity=identity.identity(settings, validate.check(settings)),
        departures=[],
        outcome=None,
        files={str(file.relative_to(path)): size_and_sha256(file) for file in store.files_of(path)},
    )
    store.write_manifest(path, replace(manifest, **of_manifest))
    return path


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint whole, whatever ranks saved them: weights, and the optimizer's moments."""
    state: dict[str, Any] = {}
    reader = FileSystemReader(checkpoint / nemo.WEIGHTS)
    _load_state_dict(state, storage_reader=reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    found = {name: value for name, value in _flat(state).items() if isinstance(value, torch.Tensor)}
    assert any(name.startswith("optimizer") for name in found), sorted(found)[:5]
    return found


def common(checkpoint: Path) -> dict[str, Any]:
    """What is no sharded tensor: schedule, loops, data position, random states; by its path."""
    return _flat(torch.load(checkpoint / nemo.WEIGHTS / "common.pt", weights_only=True))


def different(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names of what differs, to the bit."""
    return [
        name for name in sorted({*ours, *theirs}) if not _same(ours.get(name, "missing"), theirs.get(name, "missing"))
    ]


def copy(checkpoint: Path, directory: Path) -> Path:
    """A copy of a checkpoint in another directory, for tests that damage or go on from it."""
    return Path(shutil.copytree(checkpoint, directory / checkpoint.name))


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
