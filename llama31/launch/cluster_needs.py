"""Check that the submitting machine has what the jobs of a run need, here or through ssh."""

import shlex
from collections.abc import Iterator

from llama31.config import mounts, paths
from llama31.launch import remote_shell
from llama31.settings import Settings


def needed(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield what jobs need where they are submitted: a shell condition, and the message if it is false.

    If this machine sees the input directories, data/inputs.py checks them. MOUNTS is not checked: only the nodes may
    have those disks.
    """
    where = f"not on {settings.host}" if settings.host else "not there"
    for name in mounts.READ if settings.host else ():
        if path := getattr(settings, name):
            yield f"[ -d {_quoted(path)} ]", f"{name.upper()}={path}: {where}; name the directory on that machine"
    if settings.image.startswith("/"):
        yield f"[ -e {_quoted(settings.image)} ]", f"IMAGE={settings.image}: {where}; name the image's file there"
    if settings.image and settings.code_path:  # the image or MOUNTS provides the code
        return
    code, python = paths.job_code(settings), paths.job_python(settings)
    found = f"[ -d {_quoted(f'{code}/llama31')} ]"
    yield found, f"CODE_PATH={code}: {where}; name the directory of this repository there"
    if not settings.image:
        yield f"! {found} || [ -x {_quoted(python)} ]", f"{python}: {where}; bash dev/setup.sh in CODE_PATH makes it"


def lacking(settings: Settings, destination: str = "", timeout: float = remote_shell.PATIENCE) -> list[str]:
    """Return a message for each missing need. Raises UserError if the machine cannot be reached."""
    return remote_shell.output(destination, ["/bin/sh"], "\n".join(checks(settings)) + "\n", timeout).splitlines()


def checks(settings: Settings) -> Iterator[str]:
    """Yield lines of shell that print a message for each missing need; if there is one, they set `lacking`."""
    yield from ("lacking=", "lacks() { printf '%s\\n' \"$1\"; lacking=1; }")
    yield from (f"{holds} || lacks {_quoted(line)}" for holds, line in needed(settings))


def _quoted(value: object) -> str:
    return shlex.quote(str(value))
