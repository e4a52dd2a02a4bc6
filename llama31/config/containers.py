"""The container of a Slurm job: what is mounted, and how pyxis and Apptainer are told."""

from pathlib import Path

from llama31.config import mounts, paths
from llama31.settings import Settings


def mounted(settings: Settings) -> list[str]:
    """SOURCE:TARGET for all that the container shows: what the run uses under its own path, and MOUNTS."""
    directories = mounts.directories(settings)
    if not settings.code_path:  # else the image has it, or MOUNTS shows it
        directories = mounts.outermost([*directories, paths.REPOSITORY])
    return [*(f"{path}:{path}" for path in directories), *(_pair(mount) for mount in further(settings))]


def further(settings: Settings) -> list[str]:
    """What MOUNTS lists."""
    return [mount.strip() for mount in settings.mounts.split(",") if mount.strip()]


def _pair(mount: str) -> str:
    source, _, target = mount.partition(":")
    return f"{source}:{target or source}"


def made(settings: Settings) -> list[Path]:
    """Directories that must be made before they can be mounted."""
    return sorted({Path(path) for path in mounts.written(settings)})
