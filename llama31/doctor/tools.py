"""Programs that submit a run or give it a container."""

import shutil
from collections.abc import Iterator

from llama31.common.errors import UserError
from llama31.config import devices
from llama31.doctor import limits, troubles
from llama31.doctor.context import Context
from llama31.doctor.findings import Finding, failed, ok
from llama31.launch import cluster_needs, remote_shell
from llama31.launch.slurm import partitions, submit
from llama31.settings import Container

TELLS_VERSION = 2.0  # seconds; Slurm's programs look for its settings first, wherever those may be


def check(context: Context) -> Iterator[Finding]:
    """What is there, and what the settings need of it. Within a job nothing is needed any more."""
    programs = ("sbatch", "ssh", "apptainer", "docker")
    found = [_version(program) for program in programs if shutil.which(program)]
    lacking = [program for program in programs if not shutil.which(program)]
    if devices.is_elsewhere(context.settings):
        yield from _slurm(context)
        if context.settings.image and not context.settings.host:
            yield from _containers(context)
    yield ok("; ".join(filter(None, (", ".join(found), f"no {', '.join(lacking)}" if lacking else ""))))


def _slurm(context: Context) -> Iterator[Finding]:
    """Whether a job can be submitted to PARTITION from here, or from HOST, and what jobs need there."""
    settings = context.settings
    partition = settings.partition
    if not settings.host and not shutil.which("sbatch"):
        yield troubles.NO_SLURM.found(partition=partition)
        return
    destination = submit.destination(settings)
    try:
        there = partitions.known(destination, context.patience / 2)
    except remote_shell.Unreachable as error:
        yield from map(failed, error.lines)
        return
    except UserError as error:
        yield troubles.SLURM_SILENT.found(error=error.lines[0])
        return
    for wanted in partition.split(","):
        if wanted not in there:
            yield troubles.NO_PARTITION.found(partition=wanted, partitions=", ".join(there))
    if destination:
        yield from map(failed, cluster_needs.lacking(settings, destination, context.patience / 2))


def _containers(context: Context) -> Iterator[Finding]:
    """Whether a run in IMAGE can be started, as far as this machine is like the nodes."""
    if context.settings.container is Container.apptainer:
        if not shutil.which("apptainer"):
            yield troubles.NO_APPTAINER.found()
        return
    pyxis = shutil.which("srun") and "--container-image" in limits.output(["srun", "--help"], context.patience).stdout
    if not pyxis:
        yield troubles.NO_PYXIS.found(image=context.settings.image)


def _version(program: str) -> str:
    """A program with its version, if it tells one."""
    try:
        done = limits.output([program, "--version"], TELLS_VERSION)
    except limits.TookTooLong:
        return program
    said = done.stdout.strip().partition("\n")[0]
    return f"{program} ({said})" if said else program
