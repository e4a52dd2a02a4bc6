"""Mounts of the container of a Slurm job, as SOURCE:TARGET pairs for pyxis and Apptainer."""

from pathlib import Path

from llama31.config import mounts, paths
from llama31.settings import Settings


def mounted(settings: Settings) -> list[str]:
    """Return SOURCE:TARGET for each mount: the directories of the run under their own paths, then MOUNTS."""
    directories = mounts.directories(settings)
    if not settings.code_path:  # otherwise the image or MOUNTS provides it
        directories = mounts.outermost([*directories, paths.REPOSITORY])
    return [*(f"{path}:{path}" for path in directories), *(_pair(mount) for mount in further(settings))]


def further(settings: Settings) -> list[str]:
    """Return the entries of MOUNTS."""
    return [mount.strip() for mount in settings.mounts.split(",") if mount.strip()]


def _pair(mount: str) -> str:
    source, _, target = mount.partition(":")
    return f"{source}:{target or source}"


def made(settings: Settings) -> list[Path]:
    """Return the directories that must be created before they can be mounted."""
    return sorted({Path(path) for path in mounts.written(settings)})
