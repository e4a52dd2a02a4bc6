"""The Dockerfile and what it calls, where there is no Docker engine; dev/try_image_steps.sh runs its pip steps."""

import fnmatch
import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from checkout import REPOSITORY
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from dev import check_image, image_requirements
from dev.image_requirements import Installed

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
ARGUMENTS = dict(re.findall(r'^ARG (\w+)="?([^"\n]+)"?$', DOCKERFILE, re.M))
REQUIREMENTS = image_requirements.read(REPOSITORY / "requirements.txt")
LOCK = (REPOSITORY / "requirements.lock").read_text().splitlines()

BASE = {
    "torch": Installed("2.9.0a0+50eac811a6.nv25.9"),
    "triton": Installed("3.4.0+gitc817b9b6"),
    "apex": Installed("0.1"),
    "transformer-engine": Installed("2.9.0+70f53666"),
    "nvidia-cudnn-frontend": Installed("1.14.0"),
    "nvidia-modelopt": Installed("0.33.0"),
    "lightning-thunder": Installed("0.2.5.dev0+base"),
    "numpy": Installed("2.1.0"),
    "pandas": Installed("2.2.3"),
    "packaging": Installed("25.0"),
    "blinker": Installed("1.7.0", is_removable=False),
}
"""Packages as an image of NVIDIA's has them; torch's version is one that no index has."""


# --- Versions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("argument", "package"), [("NEMO", "nemo-toolkit"), ("MEGATRON_CORE", "megatron-core")])
def test_versions_are_those_of_the_requirements(argument: str, package: str) -> None:
    for lines in (REQUIREMENTS, LOCK):
        (line,) = (line for line in lines if image_requirements.name_of(line) == package)
        assert f"=={ARGUMENTS[f'{argument}_VERSION']} " in line


def test_transformer_engine_is_in_megatrons_range() -> None:
    (wanted,) = check_image.transformer_engine_range()
    assert wanted.specifier.contains(ARGUMENTS["TRANSFORMER_ENGINE_VERSION"])
    assert not wanted.specifier.contains("2.8"), "a range that leaves nothing out says nothing"


def test_python_of_the_base_image_is_one_that_the_package_is_for() -> None:
    python = re.search(r"Python (3\.\d+)", page())
    wanted = re.search(r'^requires-python = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.M)
    assert python and wanted and SpecifierSet(wanted[1]).contains(python[1])


def test_labels_are_checked_against_what_is_installed() -> None:
    """A label that a build argument changes is one that dev/check_image.py is given too."""
    labels = dict(re.findall(r'llama31\.([\w-]+)="\$\{(\w+)\}"', DOCKERFILE))
    given = dict(re.findall(r'"([\w-]+)==\$\{(\w+)\}"', DOCKERFILE[DOCKERFILE.rindex("\nRUN") :]))
    assert labels.pop("pytorch") == "BASE_TAG"
    assert labels == given
    for package in given:
        assert package in check_image.MODULES, f"{package} is not imported"


def page() -> str:
    return (REPOSITORY / "docs" / "container.md").read_text()


def test_the_page_on_the_container_names_these_versions() -> None:
    for words in (
        f"{ARGUMENTS['BASE_IMAGE']}:{ARGUMENTS['BASE_TAG']}",
        f"NeMo {ARGUMENTS['NEMO_VERSION']}",
        f"Megatron-Core {ARGUMENTS['MEGATRON_CORE_VERSION']}",
        f"Transformer Engine {ARGUMENTS['TRANSFORMER_ENGINE_VERSION']}",
        "docker build -t llama31 -f Dockerfile .",
    ):
        assert words in re.sub(r"\s+", " ", page()), words
    table = page()[page().index("| Build argument") :]
    assert dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.M)) == ARGUMENTS


# --- What is built ------------------------------------------------------------------------------------------------


def test_the_check_runs_as_a_user_without_rights_and_so_does_the_container() -> None:
    user = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.M)
    assert len(user) == 1 and int(user[0][0]) > 1000
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("RUN python3 dev/check_image.py")


def test_files_that_are_named_are_there() -> None:
    copied = [path for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M) for path in line.split()[:-1]]
    called = re.findall(r"(?<![\w/])(?:dev|docs|tests)/[\w/]+\.\w+", DOCKERFILE)
    assert {"dev/image_install.sh", "dev/check_image.py"} <= {*called}
    for path in (*copied, *called):
        assert (REPOSITORY / path).exists(), path


def test_the_image_gets_all_of_the_repository_and_nothing_else() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    everywhere = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    at_the_top = [line for line in lines if line and not line.startswith(("#", "**/"))]
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    files = tracked.stdout.splitlines() or ["README.md", "llama31/data/index.py"]  # an unpacked archive
    for path in map(Path, files):
        assert not any(fnmatch.fnmatch(part, pattern) for part in path.parts for pattern in everywhere), path
        assert not any(fnmatch.fnmatch(path.parts[0], pattern) for pattern in at_the_top), path
    for line in (REPOSITORY / ".gitignore").read_text().splitlines():
        if line and not line.startswith("#"):
            assert line.strip("/") in (*everywhere, *at_the_top), f".dockerignore lacks {line} of .gitignore"


# --- What is installed --------------------------------------------------------------------------------------------


def test_what_belongs_to_the_images_torch_stays() -> None:
    frozen = image_requirements.frozen(BASE, REQUIREMENTS)
    assert set(BASE) - set(frozen) == {"nvidia-modelopt", "numpy", "pandas", "packaging"}
    assert frozen["torch"] == BASE["torch"].version


def test_all_of_the_lock_but_that_is_asked_for() -> None:
    frozen = image_requirements.frozen(BASE, REQUIREMENTS)
    requirements = image_requirements.to_install(frozen, REQUIREMENTS)
    assert [line for line in REQUIREMENTS if line not in requirements and not line.startswith("#") and line] == [
        line for line in REQUIREMENTS if line.startswith("torch==")
    ]
    constraints = image_requirements.constraints(frozen, LOCK)
    assert constraints[: len(frozen)] == [f"{name}=={version}" for name, version in frozen.items()]
    names = [image_requirements.name_of(line) for line in constraints]
    assert {"numpy", "pandas", "packaging"} <= set(names[len(frozen) :])
    assert not set(frozen) & set(names[len(frozen) :]), "two versions of one package"


def test_an_image_without_torch_gets_everything() -> None:
    assert image_requirements.frozen({}, REQUIREMENTS) == {}
    assert len(image_requirements.constraints({}, LOCK)) == len([line for line in LOCK if line[:1] not in ("#", "")])


@pytest.mark.parametrize("name", ["Transformer_Engine", "transformer.engine", "transformer-engine"])
def test_names_are_compared_as_pip_compares_them(name: str) -> None:
    assert image_requirements.name_of(f"{name}[pytorch]==2.9  # why") == "transformer-engine"


def test_what_debian_installed_cannot_be_replaced(tmp_path: Path) -> None:
    for name, files in (("ours", ["METADATA", "RECORD"]), ("debians", ["METADATA"])):
        information = tmp_path / f"{name}-1.0.dist-info"
        information.mkdir()
        for file in files:
            (information / file).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    found = image_requirements.installed([str(tmp_path)])
    assert found == {"ours": Installed("1.0"), "debians": Installed("1.0", is_removable=False)}


@pytest.mark.slow
def test_pip_finds_nothing_to_do_where_all_is_installed(tmp_path: Path) -> None:
    """The Dockerfile's own pip steps, dry, in this environment with a torch of a version that no index has.

    dev/try_image_steps.sh takes them for real, in an environment without the rest; it takes minutes and GB.
    """
    torch = tmp_path / "torch-2.13.0a0+base.dist-info"
    torch.mkdir()
    metadata = (distribution("torch").read_text("METADATA") or "").partition("\n\n")[0]
    (torch / "METADATA").write_text(re.sub(r"(?m)^Version: .*$", "Version: 2.13.0a0+base", metadata))
    (torch / "RECORD").touch()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    dry = {"PATH": path, "PYTHONPATH": str(tmp_path), "PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1"}
    done = subprocess.run(
        ["bash", "dev/image_install.sh", tmp_path / "steps"],
        cwd=REPOSITORY, env={**os.environ, **dry}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "torch 2.13.0a0+base" in done.stdout.splitlines()[0] and "Would install" not in done.stdout, done.stdout
    assert "torch==2.13.0a0+base\n" in (tmp_path / "steps" / "constraints.txt").read_text()
    asked_for = map(image_requirements.name_of, (tmp_path / "steps" / "requirements.txt").read_text().splitlines())
    assert not {"torch", ""} & set(asked_for)


# --- The check at the end -----------------------------------------------------------------------------------------


def checked(directory: Path, *expected: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """dev/check_image.py over this environment, whose torch stands for an image's; it imports nothing heavy."""
    (directory / "base.txt").write_text(f"pip==1.0\ntorch=={distribution('torch').version}\n")
    (directory / "requirements.txt").write_text("\n".join(REQUIREMENTS))
    without = [f"--without={package}" for package in check_image.MODULES]
    return subprocess.run(
        [sys.executable, "dev/check_image.py", str(directory), *without, *expected],
        cwd=REPOSITORY,
        env={"HOME": str(directory), "USER": "someone", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_an_image_that_is_as_it_should_be(tmp_path: Path) -> None:
    done = checked(tmp_path, f"nemo_toolkit=={ARGUMENTS['NEMO_VERSION']}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_each_fault_is_a_line(tmp_path: Path) -> None:
    done = checked(tmp_path, "nemo_toolkit==1.0", "nosuch==2.0", HOME="/nonexistent")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"check_image: this image needs nemo_toolkit==1.0; installed: {ARGUMENTS['NEMO_VERSION']}",
        "check_image: this image needs nosuch==2.0; installed: nothing",
        "check_image: HOME=/nonexistent: cannot be written to; libraries keep caches there",
    ]


def test_another_torch_than_the_images_is_a_fault(tmp_path: Path) -> None:
    requirement = Requirement(f"torch=={BASE['torch'].version}")
    (line,) = check_image.unmet([requirement], "this image")
    assert line == f"this image needs torch=={BASE['torch'].version}; installed: {distribution('torch').version}"
    assert Version(BASE["torch"].version) != Version(distribution("torch").version)


def test_what_packages_ask_of_each_other_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the third link, through extras; an optional need is none."""
    for name, *needs in (
        ("first", "second[more]==1.0"),
        ("second", "third==1.0; extra == 'more'", "fourth==1.0; extra == 'less'"),
        ("third", "fifth==1.0", "first<1.0"),
    ):
        information = tmp_path / f"{name}-1.0.dist-info"
        information.mkdir()
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            "Version: 1.0",
            *(f"Requires-Dist: {need}" for need in needs),
        ]
        (information / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    assert sorted(check_image.conflicts([Requirement("first")])) == [
        "third needs fifth==1.0; installed: nothing",
        "third needs first<1.0; installed: 1.0",
    ]


def test_modules_that_break_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "needs_driver.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')")
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('undefined symbol')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert list(check_image.broken(["needs_driver", "json", "broken_module"])) == [
        "broken_module cannot be imported: RuntimeError: undefined symbol"
    ]
    assert "needs_driver not checked" in capsys.readouterr().out
