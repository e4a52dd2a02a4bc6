"""Checkpoints for tests: of a few bytes, and copies of real ones."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from runs import arguments

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


def copy(checkpoint: Path, directory: Path) -> Path:
    """Copy a checkpoint to another directory, for tests that damage it or resume from it."""
    return Path(shutil.copytree(checkpoint, directory / checkpoint.name))
