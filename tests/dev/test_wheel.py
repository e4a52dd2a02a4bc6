"""The wheel: built from a copy of the checkout, installed into an empty environment from the package index.

On 2 free cores about 1 minute, most of it pip's; 0.4 GB.
"""

import filecmp
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from email.message import Message
from email.parser import Parser
from pathlib import Path

import lacking
import llamas
import pytest
from packaging.requirements import Requirement
from packed_runs import ORG, SYSTEM, describe
from runs import REPOSITORY, arguments, environment
from submissions import ten_runs
from tiny import texts

from dev import image_requirements

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SOURCES = (
    "llama31", "pretrain_llama31.py", "pyproject.toml", "README.md", "LICENSE",
    "requirements.txt", "requirements-base.txt", "requirements-train.txt",
)  # fmt: skip
LIMIT = 400e6  # bytes of the environment, pip included
PYTHONS = ("3.10", "3.11", "3.12")

Llama31 = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the setuptools of this environment."""
    source, directory = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / name, source)
    build = ["wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, source]
    done = pip(Path(sys.executable), *build)
    assert done.returncode == 0, done.stderr
    (built,) = directory.glob("llama31-*.whl")
    return built


def pip(python: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", *more]
    return subprocess.run(command, env=outside(), capture_output=True, text=True, check=False)


def outside() -> dict[str, str]:
    """Our environment without what leads to the checkout or to other packages."""
    ours = {name: value for name, value in environment().items() if name not in ("PYTHONPATH", "LLAMA31_VENV")}
    return {**ours, "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, without extras, into a new environment."""
    directory = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    python = directory / "bin" / "python"
    done = pip(python, "install", "--no-compile", "--constraint", REPOSITORY / "requirements.lock", wheel)
    if done.returncode and "No matching distribution" in done.stderr:
        lacking.skip(f"no package index: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def installed(venv: Path, tmp_path: Path) -> Llama31:
    """The console command of the wheel, called in an empty directory."""
    return caller([venv / "bin" / "llama31"], tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Llama31:
    """The command line of the checkout, called in the same directory."""
    return caller([sys.executable, "-m", "llama31"], tmp_path, PYTHONPATH=str(REPOSITORY))


def caller(command: list[str | Path], directory: Path, **more: str) -> Llama31:
    def call(*given: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *given], cwd=directory, env=outside() | more, capture_output=True, text=True, check=False
        )

    return call


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of ten runs and a system description."""
    directory = tmp_path_factory.mktemp("a $HOME [of] runs")
    ten_runs(directory)
    describe(directory)
    return directory


# --- The wheel ----------------------------------------------------------------------------------------------------


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    files = {path for path in (REPOSITORY / "llama31").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {"pretrain_llama31.py", *(str(path.relative_to(REPOSITORY)) for path in files)}
    assert {"llama31/launch/slurm/job.sbatch", "llama31/report/report.html.j2"} <= packed


@pytest.mark.parametrize("python", PYTHONS)
def test_the_pins_of_requirements_txt_are_the_wheels(wheel: Path, python: str) -> None:
    required = metadata(wheel).get_all("Requires-Dist") or []
    assert metadata(wheel).get_all("Provides-Extra") == ["train"]
    pinned = image_requirements.read(REPOSITORY / "requirements.txt")
    base = image_requirements.read(REPOSITORY / "requirements-base.txt")
    assert pins(required, python, "train") == pins(map(bare, pinned), python)
    assert pins(required, python) == pins(map(bare, base), python)
    assert all("==" in pin for pin in pins(required, python, "train"))


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (file,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(file).decode())


def bare(line: str) -> str:
    return line.partition("#")[0].strip()


def pins(lines: Iterable[str], python: str, extra: str = "") -> set[str]:
    """Name, extras and version of each requirement that applies."""
    found = [Requirement(line) for line in lines if line]
    variables = {"extra": extra, "python_version": python}
    return {
        f"{image_requirements.normal(one.name)}{sorted(one.extras)}{one.specifier}"
        for one in found
        if one.marker is None or one.marker.evaluate(variables)
    }


# --- Without extras -----------------------------------------------------------------------------------------------


def test_it_is_small_and_has_no_torch(venv: Path) -> None:
    size = sum(path.lstat().st_size for path in venv.rglob("*") if path.is_file())
    assert size < LIMIT, f"{size / 1e6:.0f} MB"
    (packages,) = venv.glob("lib/python*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert "tokenizers" in names and not {"torch", "transformers", "nemo", "megatron", "lightning"} & names


@pytest.mark.parametrize("number", [1, 10])
def test_check(number: int, runs: Path, installed: Llama31, checkout: Llama31) -> None:
    given = ["check", *sorted(runs.glob("run-*"))[:number]]
    assert same(installed(*given), checkout(*given)).returncode == 0


def same(
    done: subprocess.CompletedProcess[str], wanted: subprocess.CompletedProcess[str]
) -> subprocess.CompletedProcess[str]:
    assert (done.returncode, done.stdout, done.stderr) == (wanted.returncode, wanted.stdout, wanted.stderr)
    return done


def test_report(runs: Path, installed: Llama31, checkout: Llama31, tmp_path: Path) -> None:
    pages = []
    for name, call in (("here.html", installed), ("there.html", checkout)):
        done = call("report", "-o", tmp_path / name, *sorted(runs.glob("run-*")))
        assert done.returncode == 0, done.stderr
        pages.append((tmp_path / name).read_text())
    assert pages[0] == pages[1]
    assert "v5.1" in pages[0] and "v6.0" in pages[0], "the published results are on it"


def test_status(runs: Path, installed: Llama31, checkout: Llama31) -> None:
    done = same(installed("status", runs), checkout("status", runs))
    assert done.returncode == 0 and "run-0" in done.stdout


def test_tokenize_and_verify(tiny_data: dict[str, str], installed: Llama31, checkout: Llama31, tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in texts()]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    said = []
    for name, call in (("here", installed), ("there", checkout)):
        (tmp_path / name).mkdir()
        tokenizer = f"--tokenizer={tiny_data['TOKENIZER_PATH']}"
        done = call("tokenize", "--input=texts.jsonl", f"--output-prefix={name}/texts", tokenizer, "--append-eod")
        assert done.returncode == 0, done.stderr
        done = call("verify", name, tokenizer, "--head=1")
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout.partition("read: ")[0])
    assert said[0] == said[1] and lines[0][10:20] in said[0]
    files = sorted(path.name for path in (tmp_path / "here").glob("texts.*") if path.suffix in (".bin", ".idx"))
    assert len(files) == 2
    assert filecmp.cmpfiles(tmp_path / "here", tmp_path / "there", files, shallow=False)[0] == files


def test_package(runs: Path, installed: Llama31, checkout: Llama31, tmp_path: Path) -> None:
    given = ["package", "--org", ORG, "--system", runs / f"{SYSTEM}.json", *sorted(runs.glob("run-*")), "-o", "tree"]
    done = installed(*given)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("not a checkout of this repository; name one that has the runs' code with --code\n")
    done = installed(*given, "--code", REPOSITORY)
    (tmp_path / "tree").rename(tmp_path / "the wheel's")
    assert same(done, checkout(*given)).returncode == 0
    trees = [sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file()) for root in
             (tmp_path / "the wheel's", tmp_path / "tree")]  # fmt: skip
    assert trees[0] == trees[1]
    same_files = filecmp.cmpfiles(tmp_path / "the wheel's", tmp_path / "tree", map(str, trees[0]), shallow=False)[0]
    assert same_files == list(map(str, trees[0]))


@pytest.mark.parametrize("verb", ["run", "index", "doctor", "convert"])
def test_a_verb_that_needs_training_is_refused(
    verb: str, usual: dict[str, str], installed: Llama31, tmp_path: Path
) -> None:
    given = arguments({**usual, "SEEDS": 1})
    if verb == "convert":  # which inspects its source first
        given = ["--source", llamas.make(llamas.KINDS["3.1"], tmp_path / "llama"), "--destination=converted"]
    done = installed(verb, *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"llama31 {verb} needs the packages of training, not installed: torch, lightning, megatron, nemo, nemo_run, "
        "transformers, safetensors; pip install 'llama31[train]', or in a checkout: bash dev/setup.sh\n"
    )
    assert not (tmp_path / "runs").exists() and not (tmp_path / "converted").exists()


def test_a_plan_needs_no_training_packages(
    usual: dict[str, str], installed: Llama31, checkout: Llama31, venv: Path
) -> None:
    done, wanted = (call("plan", *arguments({**usual, "SEEDS": 1})) for call in (installed, checkout))
    assert done.returncode == 0, done.stderr
    python = venv / "bin" / "python"
    (packages,) = venv.glob("lib/python*/site-packages")
    expected = wanted.stdout.replace(f"bash {REPOSITORY}/run_llama31.sh", f"{python} -m llama31 run")
    expected = expected.replace(sys.executable, str(python)).replace(str(REPOSITORY), str(packages))
    assert done.stdout == expected
    assert f"{python} -m llama31 run JOB_DIR=" in done.stdout


# --- With the packages of training --------------------------------------------------------------------------------


def test_a_run_from_the_wheel(wheel: Path, usual: dict[str, str], tmp_path: Path) -> None:
    """The packages of training are those of this environment; llama31 is only in the new one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    done = pip(Path(sys.executable), "install", "--no-index", "--no-deps", "--no-compile", "--target", packages, wheel)
    assert done.returncode == 0, done.stderr
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "training.pth").write_text(f"{ours}\n")
    call = caller([tmp_path / "venv" / "bin" / "python", "-m", "llama31"], tmp_path)
    done = call("run", *arguments({**usual, "SEEDS": 1, "STOP_AT_STEP": 2}))
    run_dir = tmp_path / "runs" / "latest"
    assert "steps 2" in done.stdout, done.stdout + done.stderr
    record = json.loads((run_dir / "run.json").read_text())
    assert record["commit"] is None
    assert record["repeated_by"].startswith(f"{tmp_path / 'venv' / 'bin' / 'python'} -m llama31 run ")
    assert os.path.commonpath([record["command"].split()[-2], packages]) == str(packages)
    log = (run_dir / "mlperf.log").read_text()
    assert f'"file": "{packages}' not in log, "lines are named as from a checkout"
