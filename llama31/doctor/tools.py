"""Check the programs that submit a run or run it in a container."""

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

VERSION_LIMIT = 2.0  # seconds; Slurm's programs first search for their configuration, possibly over the network


def check(context: Context) -> Iterator[Finding]:
    """List the installed programs, and check those that the settings need. Within a job none is needed."""
    programs = ("sbatch", "ssh", "apptainer", "docker")
    found = [_version(program) for program in programs if shutil.which(program)]
    missing = [program for program in programs if not shutil.which(program)]
    if devices.is_elsewhere(context.settings):
        yield from _slurm(context)
        if context.settings.image and not context.settings.host:
            yield from _containers(context)
    yield ok("; ".join(filter(None, (", ".join(found), f"no {', '.join(missing)}" if missing else ""))))


def _slurm(context: Context) -> Iterator[Finding]:
    """Check that a job can be submitted to PARTITION, from here or from HOST, and that its requirements exist there."""
    settings = context.settings
    partition = settings.partition
    if not settings.host and not shutil.which("sbatch"):
        yield troubles.NO_SLURM.found(partition=partition)
        return
    destination = submit.destination(settings)
    try:
        there = partitions.known(destination, context.command_timeout / 2)
    except remote_shell.Unreachable as error:
        yield from map(failed, error.lines)
        return
    except UserError as error:
        yield troubles.SLURM_NO_ANSWER.found(error=error.lines[0])
        return
    for wanted in partition.split(","):
        if wanted not in there:
            yield troubles.NO_PARTITION.found(partition=wanted, partitions=", ".join(there))
    if destination:
        yield from map(failed, cluster_needs.lacking(settings, destination, context.command_timeout / 2))


def _containers(context: Context) -> Iterator[Finding]:
    """Check that a run in IMAGE can start, assuming that the nodes are set up like this machine."""
    if context.settings.container is Container.apptainer:
        if not shutil.which("apptainer"):
            yield troubles.NO_APPTAINER.found()
        return
    help_text = limits.output(["srun", "--help"], context.command_timeout).stdout if shutil.which("srun") else ""
    if "--container-image" not in help_text:
        yield troubles.NO_PYXIS.found(image=context.settings.image)


def _version(program: str) -> str:
    """Return a program with its version, if it prints one."""
    try:
        done = limits.output([program, "--version"], VERSION_LIMIT)
    except limits.TookTooLong:
        return program
    version = done.stdout.strip().partition("\n")[0]
    return f"{program} ({version})" if version else program
