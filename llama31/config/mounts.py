"""Directories that a container must mount for a run: those that its settings name, and the targets of links in them.

Each is mounted under its own path, so that a setting means the same inside and outside. Docker (dev/run_docker.sh),
Apptainer and pyxis get the same list.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from llama31.common.files import real_path
from llama31.config import paths
from llama31.settings import Settings

READ = {"preprocessed_path": "*", "tokenizer_path": "*", "model_ckpt": "**/*"}
"""Settings that name input directories, each with a glob of the files that a run may open in it."""
WRITTEN = ("job_dir", "tmp_npy_index", "copy_data_to", "continual_ckpt")


def directories(settings: Settings) -> list[Path]:
    """Return all directories that a run reads and writes, absolute, without those inside another one."""
    return outermost([*read(settings), *linked(settings), *written(settings)])


def read(settings: Settings) -> list[Path]:
    """Return the input directories that are set. They must exist before a run."""
    return [absolute(value) for name in READ if (value := getattr(settings, name))]


def linked(settings: Settings) -> Iterator[Path]:
    """Yield the directories of the targets of links among the input files, as in Hugging Face's cache."""
    for name, pattern in READ.items():
        for file in absolute(value).glob(pattern) if (value := getattr(settings, name)) else ():
            while os.path.islink(file) and os.path.exists(file):  # noqa: PTH110, PTH114 - unlike Path's, never raise
                file = absolute(file.parent / file.readlink())
                yield file if os.path.isdir(file) else file.parent  # noqa: PTH112


def written(settings: Settings) -> list[Path]:
    """Return the output directories. A run creates them; to be mounted they must exist before."""
    return [absolute(value) for name in WRITTEN if (value := getattr(settings, name))] + [
        absolute(paths.index_root(settings))
    ]


def absolute(path: str | Path) -> Path:
    """Return the absolute path, with any `..` resolved: the container does not have the directories before it."""
    named = Path(path).absolute()
    return real_path(named) if ".." in named.parts else named


def outermost(directories: Iterable[Path]) -> list[Path]:
    """Return the directories, sorted, without those that are visible once another one is mounted.

    The target of a link that points out of a mounted directory is not visible, so it stays in the list.
    """
    found: list[Path] = []
    for directory in sorted(set(directories)):
        if not any(_shows(outer, directory) for outer in found):
            found.append(directory)
    return found


def pairs(settings: Settings) -> list[str]:
    """Return SOURCE:TARGET for each mount of a job's container: the run's directories, and MOUNTS."""
    found = directories(settings)
    if not settings.code_path:  # otherwise the image or MOUNTS provides it
        found = outermost([*found, paths.REPOSITORY])
    return [*(f"{path}:{path}" for path in found), *(_pair(mount) for mount in listed(settings))]


def listed(settings: Settings) -> list[str]:
    """Return the entries of MOUNTS."""
    return [mount.strip() for mount in settings.mounts.split(",") if mount.strip()]


def _pair(mount: str) -> str:
    source, _, target = mount.partition(":")
    return f"{source}:{target or source}"


def _shows(outer: Path, directory: Path) -> bool:
    return directory.is_relative_to(outer) and real_path(directory) == real_path(outer) / directory.relative_to(outer)
