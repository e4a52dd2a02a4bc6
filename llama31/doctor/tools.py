"""Programs that submit a run or give it a container."""

import shutil
from collections.abc import Iterator

from llama31.doctor import limits, troubles
from llama31.doctor.context import Context
from llama31.doctor.findings import Finding, ok

SLURM = ("sbatch", "srun", "scontrol")
CONTAINERS = ("apptainer", "singularity", "docker")


def check(context: Context) -> Iterator[Finding]:
    """What is there, and what the settings need of it. Within a job nothing is needed any more."""
    found = [program for program in (*SLURM, *CONTAINERS) if shutil.which(program)]
    if context.place is None and context.settings.partition:
        yield from _slurm(context)
    if context.place is None and context.settings.image:
        yield from _containers(context)
    versions = [_version(program, context) for program in found]
    lacking = [program for program in (*SLURM, *CONTAINERS) if program not in found]
    yield ok("; ".join(filter(None, (", ".join(versions), f"no {', '.join(lacking)}" if lacking else ""))))


def _slurm(context: Context) -> Iterator[Finding]:
    """Whether a job can be submitted to PARTITION from here."""
    partition = context.settings.partition
    for program in SLURM:
        if not shutil.which(program):
            yield troubles.NO_SLURM.found(partition=partition, program=program)
            return
    try:
        done = limits.output(["sinfo", "--noheader", "--format=%R"], context.patience)
        error = done.stderr.strip().partition("\n")[0] if done.returncode else ""
    except limits.TookTooLong as late:
        error = f"sinfo: {late}"
    if error:
        yield troubles.SLURM_SILENT.found(error=error)
        return
    there = done.stdout.split()
    for wanted in partition.split(","):
        if wanted not in there:
            yield troubles.NO_PARTITION.found(partition=wanted, partitions=", ".join(there))


def _containers(context: Context) -> Iterator[Finding]:
    """Whether a run in IMAGE can be started."""
    runners = CONTAINERS[:2]
    pyxis = shutil.which("srun") and "--container-image" in limits.output(["srun", "--help"], context.patience).stdout
    if not pyxis and not any(map(shutil.which, runners)):
        yield troubles.NO_CONTAINERS.found(image=context.settings.image, programs=" or ".join(runners))


def _version(program: str, context: Context) -> str:
    """A program with its version, if it tells one."""
    try:
        done = limits.output([program, "--version"], context.patience)
    except limits.TookTooLong:
        return program
    said = done.stdout.strip().partition("\n")[0]
    return f"{program} ({said})" if said else program
