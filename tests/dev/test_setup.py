"""dev/setup.sh, on a copy of the repository that needs two tiny packages: no network, a few seconds."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from checkout import REPOSITORY

pytestmark = pytest.mark.slow

SETUP = REPOSITORY / "dev" / "setup.sh"

# Builds its own wheel, needing nothing; on the way it does what the environment says.
BUILD_BACKEND = """
import os, signal, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    if os.environ.get("MISHAP") == "kill":
        os.killpg(0, signal.SIGKILL)  # dev/setup.sh, pip and this build at once
    if os.environ.get("MISHAP") == "interrupt":
        os.killpg(0, signal.SIGINT)  # as Ctrl-C does
    if os.environ.get("MISHAP") == "fail":
        raise SystemExit("no wheel today")
    name = "greeting-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("greeting.py", "text = 'hello'")
        wheel.writestr("greeting-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: greeting\\nVersion: 1.0\\n")
        wheel.writestr("greeting-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("greeting-1.0.dist-info/RECORD", "")
    return name
"""


class Checkout:
    """A small stand-in for the repository, and a way to run its dev/setup.sh."""

    def __init__(self, root: Path, packages: Path, python: Path):
        self.root = root
        self.venv = root / ".venv"
        self.env = {
            **os.environ,
            "LLAMA31_PYTHON": str(python),
            "PIP_NO_INDEX": "1",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_FIND_LINKS": packages.as_uri(),
        }
        for name in ("LLAMA31_VENV", "PIP_CONSTRAINT", "MISHAP"):
            self.env.pop(name, None)

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self.root / "dev" / "setup.sh"), *arguments],
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def setup(self, *arguments: str, expect: int = 0, **env: str) -> str:
        """Runs it and returns what it said to the user (standard error)."""
        process = self.start(*arguments, **env)
        out, said = process.communicate(timeout=120)
        assert process.returncode == expect, said
        assert out == (f"{env.get('LLAMA31_VENV', self.venv)}\n" if expect == 0 else "")
        return said

    def can_import(self, module: str) -> bool:
        command = [self.venv / "bin" / "python", "-c", f"import {module}"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def quick_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This Python, but its "-m venv" copies one that was made before: 0.1 s instead of some 3 s each."""
    directory = tmp_path_factory.mktemp("python")
    subprocess.run([sys.executable, "-m", "venv", directory / "made"], check=True)
    quick = directory / "python"
    quick.write_text(f"""#!/usr/bin/env bash
if [[ "$1 $2 $3" == "-m venv --" ]]; then exec cp -a '{directory}/made/.' "$4"; fi
exec '{sys.executable}' "$@"
""")
    quick.chmod(0o755)
    return quick


@pytest.fixture
def checkout(tmp_path: Path, quick_python: Path) -> Checkout:
    root = tmp_path / "a $HOME of 'its' own"
    (root / "dev").mkdir(parents=True)
    shutil.copy(SETUP, root / "dev" / "setup.sh")
    (root / "requirements.txt").write_text("greeting\n")
    (root / "requirements-dev.txt").write_text("tool\n")
    (root / "requirements.lock").write_text("greeting==1.0\ntool==1.0\n")

    packages = tmp_path / "packages"
    packages.mkdir()
    source = tmp_path / "greeting-1.0"
    source.mkdir()
    (source / "backend.py").write_text(BUILD_BACKEND)
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    with tarfile.open(packages / "greeting-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    with zipfile.ZipFile(packages / "tool-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tool.py", "")
        wheel.writestr("tool-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tool\nVersion: 1.0\n")
        wheel.writestr("tool-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tool-1.0.dist-info/RECORD", "")
    return Checkout(root, packages, quick_python)


def test_made_once_reused_extended_and_remade_when_stale(checkout: Checkout) -> None:
    both = [checkout.start(), checkout.start()]
    results = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert [out for out, _ in results] == [f"{checkout.venv}\n"] * 2
    said = "".join(said for _, said in results)
    assert said.count("setup: making ") == 1
    assert said.count("setup: ready after") == 1
    assert checkout.can_import("greeting")
    assert not checkout.can_import("tool")

    assert checkout.setup() == ""

    made = (checkout.venv / "pyvenv.cfg").stat()
    assert "adding the tools" in checkout.setup("--dev")
    assert checkout.can_import("tool")
    assert (checkout.venv / "pyvenv.cfg").stat() == made, "the tools are added, the rest is kept"
    assert checkout.setup("--dev") == ""
    assert checkout.setup() == "", "an environment with the tools serves a run, too"

    (checkout.venv / "leftover").touch()
    with (checkout.root / "requirements.lock").open("a") as lock:
        lock.write("other==2.0\n")
    assert "stale; making it again" in checkout.setup()
    assert not (checkout.venv / "leftover").exists()
    assert not checkout.can_import("tool")


def test_failed_interrupted_or_killed_is_rebuilt(checkout: Checkout) -> None:
    said = checkout.setup(expect=1, MISHAP="fail")
    assert "no wheel today" in said, "the end of pip's output is shown"
    assert f"setup: pip failed; the whole output is in {checkout.venv}.log" in said
    assert "Processing" in Path(f"{checkout.venv}.log").read_text()

    said = checkout.setup(expect=130, MISHAP="interrupt")
    assert said.endswith("setup: interrupted; the next call starts over\n")

    checkout.setup(expect=-signal.SIGKILL, MISHAP="kill")
    assert (checkout.venv / "bin" / "python").exists()
    assert not checkout.can_import("greeting")

    assert "incomplete or stale; making it again" in checkout.setup()
    assert checkout.can_import("greeting")


@pytest.mark.parametrize("kind", ["directory", "file", "link to a directory"])
def test_what_it_did_not_make_is_kept(checkout: Checkout, kind: str) -> None:
    mine = checkout.root / "mine"
    if kind == "file":
        mine.write_text("mine")
    else:
        mine.mkdir()
        (mine / "pyvenv.cfg").write_text("mine")
    path = mine
    if kind == "link to a directory":
        path = checkout.root / "link"
        path.symlink_to(mine)
    said = checkout.setup(expect=2, LLAMA31_VENV=str(path))
    assert said == (
        f"setup: {mine} was not made by dev/setup.sh and is kept; move it or set LLAMA31_VENV to another path\n"
    )
    assert (mine if kind == "file" else mine / "pyvenv.cfg").read_text() == "mine"


def test_place_that_cannot_be_written(checkout: Checkout) -> None:
    said = checkout.setup(expect=2, LLAMA31_VENV="/proc/here/.venv")
    assert said == "setup: cannot write to /proc/here/; set LLAMA31_VENV to another path\n"


def pythons(directory: Path, scripts: dict[str, str]) -> str:
    """A PATH whose Pythons are these shell scripts."""
    directory.mkdir()
    for name, text in scripts.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def test_no_suitable_python(checkout: Checkout, tmp_path: Path) -> None:
    scripts = {
        "python3": "echo 3.13",
        "python3.12": "echo 'pyenv: python3.12: command not found' >&2; exit 127",
        "python3.11": 'case "$2" in *ensurepip*) exit 1;; *) echo 3.11;; esac',
        "python3.10": "exit 127",
    }
    said = checkout.setup(expect=2, LLAMA31_PYTHON="", PATH=pythons(tmp_path / "bin", scripts))
    assert said == (
        "setup: no Python 3.10, 3.11 or 3.12 with venv: python3 is 3.13;"
        " python3.11 3.11 lacks the venv module (Debian: apt-get install python3.11-venv);"
        " install one (Debian: apt-get install python3 python3-venv) or set LLAMA31_PYTHON\n"
    )
    assert not checkout.venv.exists()

    said = checkout.setup(expect=2, LLAMA31_PYTHON="/no/such/python")
    assert "/no/such/python: not found" in said


def test_first_python_that_works_is_taken(checkout: Checkout, tmp_path: Path) -> None:
    scripts = {
        "python3": "echo 3.9",
        "python3.12": "exit 127",
        # What is asked of the one chosen, up to making the environment, which fails here.
        "python3.11": 'case "$*" in *"-m venv"*) echo "disk full"; exit 1;; *ensurepip*) exit 0;; *) echo 3.11;; esac',
    }
    said = checkout.setup(expect=1, LLAMA31_PYTHON="", PATH=pythons(tmp_path / "bin", scripts))
    assert f"setup: making {checkout.venv} with python3.11 3.11" in said
    assert f"disk full\nsetup: python3.11 -m venv -- {checkout.venv} failed; the whole output is in " in said


def test_unknown_argument(checkout: Checkout) -> None:
    assert checkout.setup("--def", expect=2) == ("setup: unknown arguments: --def; usage: bash dev/setup.sh [--dev]\n")
