"""What dev/run_docker.sh does: settings of the environment -> one docker command, which takes this process over."""

import csv
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llama31.common.errors import UserError
from llama31.config import mounts
from llama31.config.environment import CACHE, LIBRARIES, PLACES, is_secret
from llama31.settings import Device, Settings, names

REPOSITORY = Path(__file__).resolve().parents[1]

PREPARATION = ("C4_PATH", "MERGED_C4_PATH", "SRC_PATH")
"""Directories that the scripts of utils/ take beyond those of the settings."""

FOR_THE_SCRIPTS = ("PARTS", "JOBS", "FROM_SHARDS", "MLC_")
"""How names begin of what else those scripts take."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command, or with --print shows it; gives the exit code of a mistake."""
    is_dry = list(arguments[:1]) == ["--print"]
    inside = arguments[1:] if is_dry else arguments
    try:
        if inside and inside[0].startswith("-"):
            raise UserError(f"{inside[0]}: no such option; --print shows the command; else begin with one to run")
        environment = {**os.environ, **absolute_paths(os.environ)}
        command = docker_command(environment, inside)
        if is_dry:
            print(shlex.join(command))
            return 0
        make_directories(environment)
    except UserError as error:
        print("\n".join(f"run_docker: {line}" for line in error.lines), file=sys.stderr)
        return 2
    return os.execvp(command[0], command)


def absolute_paths(environment: Mapping[str, str]) -> dict[str, str]:
    """The directories among the environment's settings as the container, which starts elsewhere, sees them."""
    given = [name.upper() for name in (*mounts.READ, *mounts.WRITTEN)]
    given += [*PREPARATION, "DST_PATH", "CONFIG_FILENAME"]
    values = {"JOB_DIR": Settings().job_dir} | {name: environment[name] for name in given if environment.get(name)}
    # Not every shell replaces the ~ in NAME=~/directory, and within the container it is another one.
    return {name: str(mounts.absolute(os.path.expanduser(value))) for name, value in values.items()}  # noqa: PTH111


def docker_command(environment: Mapping[str, str], inside: Sequence[str], devices: Path = Path("/dev")) -> list[str]:
    """The docker command that runs `inside`, by default a shell. Paths of the environment must be absolute."""
    docker = shutil.which("docker", path=environment.get("PATH"))
    if not docker:
        raise UserError("no docker found; install Docker, or where Slurm starts containers, set PARTITION instead")
    return [
        *(docker, "run", "--rm", "--init", "--interactive"),
        *(["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []),
        *gpus(environment.get("DEVICE") or Settings().device.name, devices),
        *("--ipc=host", "--ulimit=memlock=-1", "--ulimit=stack=67108864"),  # as NCCL and NVIDIA's image ask for
        f"--user={os.getuid()}:{os.getgid()}",
        *(f"--group-add={group}" for group in os.getgroups()),
        *(f"--mount={mount(directory)}" for directory in shown(environment)),
        *(ssh(environment) if environment.get("HOST") else []),
        f"--workdir={REPOSITORY}",
        "--env=HOME=/tmp",  # this user has no home in there
        *(f"--env={assignment}" for assignment in passed(environment)),
        image(environment),
        *(inside or ["bash"]),
    ]


def image(environment: Mapping[str, str]) -> str:
    """IMAGE, as Docker writes images."""
    name = environment.get("IMAGE", "")
    works = "such as llama31, after docker build -t llama31 -f Dockerfile ."
    if not name.strip():
        raise UserError(f"IMAGE is empty; set it to the name of an image, {works}")
    if not re.fullmatch(r"[a-zA-Z0-9][\w./:@-]*", name) or name.endswith((".sqsh", ".sif")):
        raise UserError(f"IMAGE={name}: not a name that Docker takes; set it to one, {works}")
    return name


def ssh(environment: Mapping[str, str]) -> list[str]:
    """Options that let `ssh HOST` work in there as it does here: it looks the user up, and takes keys or an agent."""
    directories = [Path("/etc/passwd"), Path("/etc/group"), Path.home() / ".ssh"]
    options = [f"--mount={mount(path)},readonly" for path in directories if path.exists()]
    if agent := environment.get("SSH_AUTH_SOCK"):
        options += [f"--mount={mount(Path(agent))}", f"--env=SSH_AUTH_SOCK={agent}"]
    return options


def gpus(device: str, devices: Path) -> list[str]:
    """Options that give the container this machine's GPUs."""
    if device == Device.cpu.name:
        return []
    if (devices / "kfd").exists():  # AMD's
        return ["--device=/dev/kfd", "--device=/dev/dri", "--security-opt=seccomp=unconfined"]
    if (devices / "nvidiactl").exists() or (devices / "dxg").exists():  # NVIDIA's, and within Windows
        return ["--gpus=all"]
    if device == Device.cuda.name:
        raise UserError(f"DEVICE={device}: there is no GPU here, neither /dev/nvidiactl nor /dev/kfd; DEVICE=cpu works")
    return []


def shown(environment: Mapping[str, str]) -> list[Path]:
    """The directories to mount: this checkout, those of a run, those of the preparation, and that of config.sh."""
    run = settings(environment)
    needed = {name: environment[name] for name in PREPARATION if environment.get(name)}
    needed |= {name.upper(): value for name in mounts.READ if (value := getattr(run, name))}
    for name in ("DST_PATH", "CONFIG_FILENAME"):  # the first is yet to be made
        if environment.get(name):
            needed[name] = str(Path(environment[name]).parent)
    wrong = [f"{name}={path}: no such directory; make it or correct the setting" for name, path in needed.items()
             if not Path(path).is_dir()]  # fmt: skip
    directories = mounts.outermost([REPOSITORY, *map(Path, needed.values()), *mounts.directories(run)])
    wrong += [f"{path!a}: a name that cannot be printed; rename it" for path in map(str, directories)
              if not path.isprintable()]  # fmt: skip
    if wrong:
        raise UserError(wrong)
    return directories


def settings(environment: Mapping[str, str]) -> Settings:
    """The settings that name directories; the container looks at the others."""
    return Settings(**{name: environment.get(name.upper(), "") for name in (*mounts.READ, *mounts.WRITTEN)})


def make_directories(environment: Mapping[str, str]) -> None:
    """Makes those that a run writes to, since Docker mounts only what is there, or else makes them as root."""
    for directory in mounts.written(settings(environment)):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{directory}: cannot be made: {error.strerror}") from error


def mount(directory: Path) -> str:
    """A value of --mount, which Docker reads as a line of comma-separated values: a comma needs quotes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(["type=bind", f"source={directory}", f"target={directory}"])
    return line.getvalue()


def passed(environment: Mapping[str, str]) -> Iterator[str]:
    """What the container gets of the environment: NAME=value, or NAME alone for what is nobody else's business."""
    for name, value in sorted(environment.items()):
        if name == "IMAGE" and not environment.get("PARTITION"):
            continue  # the container that the run is in already
        if name in names() or name in (*PREPARATION, "DST_PATH"):
            if value:
                yield f"{name}={value}"
        elif name.startswith(FOR_THE_SCRIPTS):
            yield name
        elif name.startswith(LIBRARIES) and not name.startswith(PLACES) and not CACHE.search(name):
            yield name if is_secret(name) else f"{name}={value}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
