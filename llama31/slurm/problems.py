"""Settings of Slurm and of containers that cannot work."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from llama31 import mounts, paths
from llama31.problem import Problem, assignment
from llama31.settings import Container, Settings
from llama31.slurm import containers

NEEDS_PARTITION = (
    "account", "time", "exclusive", "sbatch_args", "signal_before_end", "npar", "max_retries", "dependencies", "host",
    "ssh_user", "code_path", "image", "container", "mounts", "nnodes",
)  # fmt: skip
SEPARATORS = {",": "a comma", ":": "a colon"}
"""What separates mounts on the command lines of pyxis and Apptainer, so no path to mount may hold it."""
SAID_OTHERWISE = {
    ("-N", "--nodes"): "NNODES says how many nodes",
    ("-n", "--ntasks", "--ntasks-per-node"): "GPUS_PER_NODE says how many ranks a node has",
    ("-a", "--array"): "NEXP submits several experiments",
    ("-o", "--output", "-e", "--error", "-D", "--chdir"): "the log is looked for in the run directory",
    ("-G", "--gpus"): "EXCLUSIVE=0 asks for GPUS_PER_NODE GPUs on each node",
    ("--signal",): "SIGNAL_BEFORE_END says when a job is warned, and its script must be the one that hears it",
    ("-W", "--wait"): "run_llama31.sh --wait follows the jobs",
    ("-m", "--distribution"): "ranks fill one node after the other, which the parallel layout counts on",
    ("--gpus-per-task", "--ntasks-per-gpu", "--tres-per-task"): (
        "a node has a rank for each of its GPUS_PER_NODE GPUs; EXCLUSIVE=0 asks for no more of them"
    ),
    ("--gpu-bind", "--tres-bind"): "each rank sees all GPUs of its node, and takes the one of its own number",
}
"""Options of sbatch that the submission itself depends on."""
UNLIMITED = ("0", "INFINITE", "UNLIMITED")
"""What Slurm takes for no time limit."""
_DEPENDENCY = re.compile(r"(after|afterany|afterok|afternotok|aftercorr|afterburstbuffer|singleton)\b[\w:+,?]*")


def problems(settings: Settings) -> Iterator[Problem]:
    """What speaks against a submission; without PARTITION, settings that only a submission uses."""
    usual = {field.name: field.default for field in fields(Settings)}
    if not settings.partition:
        for name in NEEDS_PARTITION:
            if (value := getattr(settings, name)) != usual[name]:
                what = f"{assignment(name, value)}: needs PARTITION, and so Slurm"
                yield Problem(name, what, (usual[name],))
        return
    yield from _job(settings)
    yield from _chain(settings)
    yield from _ssh(settings)
    yield from _container(settings)


def _job(settings: Settings) -> Iterator[Problem]:
    try:
        options = shlex.split(settings.sbatch_args)
    except ValueError as error:
        yield Problem("sbatch_args", f"SBATCH_ARGS={settings.sbatch_args}: {error}", ("",))
    else:
        if options and not options[0].startswith("-"):
            what = f"SBATCH_ARGS={settings.sbatch_args}: not an option of sbatch, such as --qos=high"
            yield Problem("sbatch_args", what, ("",))
        for option in options:
            if instead := _said_otherwise(option):
                what = f"SBATCH_ARGS={settings.sbatch_args}: leave out {option}; {instead}"
                others = shlex.join(other for other in options if other != option)
                yield Problem("sbatch_args", what, tuple(dict.fromkeys((others, ""))))
    limited = settings.time and settings.time.upper() not in UNLIMITED
    limit = seconds(settings.time) if limited else None
    if limited and limit is None:
        what = f"TIME={settings.time}: not a time limit as Slurm takes it, such as 4:00:00 or 1-12:00:00"
        yield Problem("time", what, ("",))
    elif limit is not None and settings.signal_before_end >= limit:
        yield Problem(
            "signal_before_end",
            f"SIGNAL_BEFORE_END={settings.signal_before_end}: must be below TIME={settings.time}, which is {limit} s",
            (limit // 4,),
        )


def _said_otherwise(option: str) -> str:
    """What says what this option of sbatch says, if the submission depends on it: -N2, --nodes=2, or, as sbatch takes
    any beginning of a name that no other has, --nod=2."""
    short, long = option[:2], option.partition("=")[0]
    for names, instead in SAID_OTHERWISE.items():
        if short in names or (short == "--" and any(name.startswith(long) for name in names)):
            return instead
    return ""


def seconds(limit: str) -> int | None:
    """Seconds of a time limit in the formats that sbatch's manual lists; None if it is none."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if not match:
        return None
    days, *numbers = match.groups()
    given = [int(number) for number in numbers if number is not None]
    if days is not None:  # days-hours, days-hours:minutes, days-hours:minutes:seconds
        hours, minutes, rest = [*given, 0, 0][:3]
    elif len(given) == 1:
        hours, minutes, rest = 0, given[0], 0
    else:
        hours, minutes, rest = [0, *given][-3:]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest or None


def _chain(settings: Settings) -> Iterator[Problem]:
    if settings.npar > 1 and not settings.save_ckpt:
        yield Problem(
            "npar",
            f"NPAR={settings.npar}: a job goes on where the one before ended only with SAVE_CKPT=1 and CONTINUAL_CKPT",
            (1,),
        )
    if settings.dependencies and not dependency(settings.dependencies):
        yield Problem(
            "dependencies",
            f"DEPENDENCIES={settings.dependencies}: neither job ids nor a dependency as sbatch takes it, such as "
            "afterok:1234",
            ("",),
        )


def dependency(given: str) -> str:
    """DEPENDENCIES as an argument of sbatch's --dependency; job ids alone must have ended in whatever way."""
    if re.fullmatch(r"[\s,:]*\d[\d\s,:]*", given):
        return ":".join(["afterany", *re.findall(r"\d+", given)])
    return given if _DEPENDENCY.fullmatch(given) else ""


def _ssh(settings: Settings) -> Iterator[Problem]:
    if settings.ssh_user and not settings.host:
        yield Problem("ssh_user", f"SSH_USER={settings.ssh_user}: needs HOST", ("",))
    for name in ("host", "ssh_user"):
        value = getattr(settings, name)
        if value.startswith("-") or re.search(r"\s", value):  # ssh would take it for something else
            yield Problem(name, f"{name.upper()}={value}: not a name that ssh takes", ("",))


def _container(settings: Settings) -> Iterator[Problem]:
    if not settings.image:
        for name, usual in (("mounts", ""), ("container", Container.pyxis)):
            if (value := getattr(settings, name)) != usual:
                yield Problem(name, f"{assignment(name, value)}: needs IMAGE", (usual,))
        return
    for path in [*mounts.directories(settings), Path(settings.code_path or paths.REPOSITORY)]:
        for sign, words in SEPARATORS.items():
            if sign in str(path):
                what = f"{path}: holds {words}, which separates mounts; rename it, or leave IMAGE empty"
                yield Problem("image", what, ("",))
    for mount in containers.further(settings):
        if not all(path.startswith("/") for path in mount.split(":", 1)):
            what = f"MOUNTS={settings.mounts}: {mount} is not PATH or PATH:PATH_INSIDE, from / on"
            yield Problem("mounts", what, ("",))
