"""Build the docker command of dev/run_docker.sh from the settings in the environment, and execute it."""

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
"""Directories for the scripts of utils/ that are not settings."""

FOR_THE_SCRIPTS = ("PARTS", "JOBS", "FROM_SHARDS", "MLC_")
"""Prefixes of the other variables of those scripts."""


def main(arguments: Sequence[str]) -> int:
    """Execute the command, or print it with --print. Returns an exit code if the settings are wrong."""
    is_dry = list(arguments[:1]) == ["--print"]
    inside = arguments[1:] if is_dry else arguments
    try:
        if inside and inside[0].startswith("-"):
            raise UserError(f"{inside[0]}: no such option; the only one is --print")
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
    """Return the directories among the environment's settings as absolute paths: the container starts elsewhere."""
    given = [name.upper() for name in (*mounts.READ, *mounts.WRITTEN)]
    given += [*PREPARATION, "DST_PATH", "CONFIG_FILENAME"]
    values = {"JOB_DIR": Settings().job_dir} | {name: environment[name] for name in given if environment.get(name)}
    # Not every shell expands ~ in NAME=~/directory, and HOME differs in the container.
    return {name: str(mounts.absolute(os.path.expanduser(value))) for name, value in values.items()}  # noqa: PTH111


def docker_command(environment: Mapping[str, str], inside: Sequence[str], devices: Path = Path("/dev")) -> list[str]:
    """Return the docker command that runs `inside`, by default a shell. Paths in the environment must be absolute."""
    docker = shutil.which("docker", path=environment.get("PATH"))
    if not docker:
        raise UserError("docker is not installed; install Docker, or set PARTITION if Slurm starts the containers")
    return [
        *(docker, "run", "--rm", "--init", "--interactive"),
        *(["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []),
        *gpus(environment.get("DEVICE") or Settings().device.name, devices),
        *("--ipc=host", "--ulimit=memlock=-1", "--ulimit=stack=67108864"),  # as NCCL and NVIDIA's image recommend
        f"--user={os.getuid()}:{os.getgid()}",
        *(f"--group-add={group}" for group in os.getgroups()),
        *(f"--mount={mount(directory)}" for directory in shown(environment)),
        *(ssh(environment) if environment.get("HOST") else []),
        f"--workdir={REPOSITORY}",
        "--env=HOME=/tmp",  # this user has no home directory there
        *(f"--env={assignment}" for assignment in passed(environment)),
        image(environment),
        *(inside or ["bash"]),
    ]


def image(environment: Mapping[str, str]) -> str:
    """Return IMAGE. Raises UserError if it is not a name for Docker."""
    name = environment.get("IMAGE", "")
    works = "such as llama31, after docker build -t llama31 -f Dockerfile ."
    if not name.strip():
        raise UserError(f"IMAGE is empty; set it to the name of an image, {works}")
    if not re.fullmatch(r"[a-zA-Z0-9][\w./:@-]*", name) or name.endswith((".sqsh", ".sif")):
        raise UserError(f"IMAGE={name}: not a name that Docker takes; set it to one, {works}")
    return name


def ssh(environment: Mapping[str, str]) -> list[str]:
    """Return options that make `ssh HOST` work in the container: user database, keys and agent."""
    directories = [Path("/etc/passwd"), Path("/etc/group"), Path.home() / ".ssh"]
    options = [f"--mount={mount(path)},readonly" for path in directories if path.exists()]
    if agent := environment.get("SSH_AUTH_SOCK"):
        options += [f"--mount={mount(Path(agent))}", f"--env=SSH_AUTH_SOCK={agent}"]
    return options


def gpus(device: str, devices: Path) -> list[str]:
    """Return options that give the container this machine's GPUs. Raises UserError if DEVICE=cuda and it has none."""
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
    """Return the directories to mount: this checkout and those of the run, the data preparation and config.sh."""
    run = settings(environment)
    needed = {name: environment[name] for name in PREPARATION if environment.get(name)}
    needed |= {name.upper(): value for name in mounts.READ if (value := getattr(run, name))}
    for name in ("DST_PATH", "CONFIG_FILENAME"):  # the first does not exist yet
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
    """Return the settings that name directories; the others are validated in the container."""
    return Settings(**{name: environment.get(name.upper(), "") for name in (*mounts.READ, *mounts.WRITTEN)})


def make_directories(environment: Mapping[str, str]) -> None:
    """Make the directories that a run writes to: Docker mounts only existing ones, or makes them as root."""
    for directory in mounts.written(settings(environment)):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{directory}: cannot be made: {error.strerror}") from error


def mount(directory: Path) -> str:
    """Return a value of --mount. Docker parses it as CSV, so a comma in the path needs quotes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(["type=bind", f"source={directory}", f"target={directory}"])
    return line.getvalue()


def passed(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the variables to forward: NAME=value, or only NAME for secrets, which docker then copies itself."""
    for name, value in sorted(environment.items()):
        if name == "IMAGE" and not environment.get("PARTITION"):
            continue  # the run is in this container already
        if name in names() or name in (*PREPARATION, "DST_PATH"):
            if value:
                yield f"{name}={value}"
        elif name.startswith(FOR_THE_SCRIPTS):
            yield name
        elif name.startswith(LIBRARIES) and not name.startswith(PLACES) and not CACHE.search(name):
            yield name if is_secret(name) else f"{name}={value}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
