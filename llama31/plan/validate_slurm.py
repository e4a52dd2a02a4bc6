"""Validate the settings of Slurm and of containers."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from llama31.config import mounts, paths
from llama31.config.problem import Problem, assignment
from llama31.config.ssh_names import is_ssh_name
from llama31.plan import sbatch_options
from llama31.settings import Container, Settings

NEEDS_PARTITION = (
    "account", "time", "exclusive", "sbatch_args", "signal_before_end", "npar", "runs_per_job", "max_retries",
    "dependencies", "host", "ssh_user", "code_path", "image", "container", "mounts", "nnodes",
)  # fmt: skip
SEPARATORS = {",": "a comma", ":": "a colon"}
"""Separators of mounts on the command lines of pyxis and Apptainer, not allowed in a path to mount."""
UNLIMITED = ("0", "INFINITE", "UNLIMITED")
_DEPENDENCY = re.compile(r"(after|afterany|afterok|afternotok|aftercorr|afterburstbuffer|singleton)\b[\w:+,?]*")


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield problems of a submission; without PARTITION, settings that only a submission uses."""
    usual = {field.name: field.default for field in fields(Settings)}
    if not settings.partition:
        for name in NEEDS_PARTITION:
            if (value := getattr(settings, name)) != usual[name]:
                what = f"{assignment(name, value)}: needs PARTITION, for Slurm"
                yield Problem(name, what, (usual[name],))
        return
    yield from _job(settings)
    yield from _chain(settings)
    yield from _ssh(settings)
    yield from _container(settings)


def _job(settings: Settings) -> Iterator[Problem]:
    try:
        yield from sbatch_options.problems(settings)
        named = sbatch_options.last(sbatch_options.parsed(settings.sbatch_args), sbatch_options.TIME)
    except ValueError as error:
        yield Problem("sbatch_args", f"SBATCH_ARGS={settings.sbatch_args}: {error}", ("",))
        return
    if settings.time and settings.time.upper() not in UNLIMITED and seconds(settings.time) is None:
        what = f"TIME={settings.time}: not a time limit in Slurm's format, such as 4:00:00 or 1-12:00:00"
        yield Problem("time", what, ("",))
        return
    limit = seconds(named.value if named else settings.time)
    if limit is not None and settings.signal_before_end >= limit:
        where = f"{shlex.join(named.words)} of SBATCH_ARGS" if named else f"TIME={settings.time}"
        what = f"SIGNAL_BEFORE_END={settings.signal_before_end}: must be below {where}, which is {limit} s"
        yield Problem("signal_before_end", what, (limit // 4,))


def seconds(limit: str) -> int | None:
    """Return the seconds of a time limit in one of the formats of sbatch's manual; None for another text."""
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
        what = f"NPAR={settings.npar}: a job resumes from the one before only with SAVE_CKPT=1 and CONTINUAL_CKPT"
        yield Problem("npar", what, (1,))
    runs = settings.runs_per_job
    if runs > settings.nexp:
        what = f"RUNS_PER_JOB={runs}: more than the experiments, NEXP={settings.nexp}"
        yield Problem("runs_per_job", what, elsewhere=({"nexp": runs},))
    if runs > 1 and settings.max_retries:
        what = f"MAX_RETRIES={settings.max_retries}: a job with RUNS_PER_JOB={runs} is not requeued"
        yield Problem("max_retries", f"{what}, since that would repeat its finished runs", (0,))
    if settings.dependencies and not dependency(settings.dependencies):
        wanted = "neither job ids nor a dependency in sbatch's format, such as afterok:1234"
        yield Problem("dependencies", f"DEPENDENCIES={settings.dependencies}: {wanted}", ("",))


def dependency(given: str) -> str:
    """Return DEPENDENCIES as sbatch's --dependency, "" if invalid. Plain job ids mean afterany."""
    if re.fullmatch(r"[\s,:]*\d[\d\s,:]*", given):
        return ":".join(["afterany", *re.findall(r"\d+", given)])
    return given if _DEPENDENCY.fullmatch(given) else ""


def _ssh(settings: Settings) -> Iterator[Problem]:
    if settings.ssh_user and not settings.host:
        yield Problem("ssh_user", f"SSH_USER={settings.ssh_user}: needs HOST", ("",))
    for name in ("host", "ssh_user"):
        value = getattr(settings, name)
        if value and not is_ssh_name(value):
            yield Problem(name, f"{name.upper()}={value}: not a name that ssh accepts", ("",))


def _container(settings: Settings) -> Iterator[Problem]:
    if not settings.image:
        for name, usual in (("mounts", ""), ("container", Container.pyxis)):
            if (value := getattr(settings, name)) != usual:
                yield Problem(name, f"{assignment(name, value)}: needs IMAGE", (usual,))
        return
    if not settings.code_path and not paths.is_checkout():
        what = "CODE_PATH is empty: name a checkout that the container has; llama31 is installed here without one"
        yield Problem("code_path", what)
    for path in [*mounts.directories(settings), Path(settings.code_path or paths.REPOSITORY)]:
        for sign, words in SEPARATORS.items():
            if sign in str(path):
                what = f"{path}: contains {words}, which separates mounts; rename it, or leave IMAGE empty"
                yield Problem("image", what, ("",))
    for mount in mounts.listed(settings):
        if not all(path.startswith("/") for path in mount.split(":", 1)):
            what = f"MOUNTS={settings.mounts}: {mount} is not PATH or PATH:PATH_INSIDE with absolute paths"
            yield Problem("mounts", what, ("",))
