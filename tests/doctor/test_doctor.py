"""`doctor` on one machine: the real checks on real faults. About 40 s, most of it torch's imports."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import debian
import pytest
from checkout import REPOSITORY
from doctor_checks import context, texts
from runs import arguments, environment

from llama31.config import devices
from llama31.config.resolve import resolve
from llama31.data.token_manifest import manifest_path
from llama31.doctor import collectives, data, doctor, filesystems, gpus, tools, troubles, versions
from llama31.doctor.context import Context
from llama31.doctor.doctor import Check
from llama31.doctor.findings import Finding, Severity, lines, ok
from llama31.doctor.group import Group, expanded

# --- The verb -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_is_well(usual: dict[str, str], tmp_path: Path) -> None:
    """Two ranks; no files are left, also if the directories did not exist yet."""
    saves = {"SAVE_CKPT": "1", "CONTINUAL_CKPT": str(tmp_path / "checkpoints"), "GPUS_PER_NODE": "2"}
    command = [sys.executable, "-m", "llama31", "doctor", "--verify", *arguments({**usual, **saves})]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert all(line.startswith(("ok ", "warning ")) for line in said), done.stdout
    assert re.search(r"gloo, 2 ranks, 16\.78 MB: bus bandwidth [\d.]+ [MG]B/s$", done.stdout, re.M), done.stdout
    assert "3 token files read, no problems" in said[-1]
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_line() -> None:
    for wrong, line in (
        ("GBSS=3", "GBSS=3: no such setting; did you mean GBS?"),
        ("--verfy", "--verfy: no such option"),
    ):
        command = [sys.executable, "-m", "llama31", "doctor", wrong]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(line)
        assert done.stderr.count("\n") == 1


def test_documentation_lists_all_troubles() -> None:
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    there = [line for line in text.splitlines() if line.startswith("|")]
    assert there == list(troubles.table()), "python3 -m dev.troubles_table writes the table"


def test_nothing_heavy_is_imported_to_start() -> None:
    program = (
        "import llama31.doctor.doctor, sys; print({'torch', 'numpy', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_check_that_raises_or_hangs_does_not_end_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    def raises(_: Context) -> Iterator[Finding]:
        yield ok("started")
        raise ZeroDivisionError("by zero")

    def hangs(_: Context) -> Iterator[Finding]:
        yield ok("waits")
        threading.Event().wait()

    wanted = [Check("one", raises), Check("two", hangs, limit=0.2), Check("three", lambda _: iter([ok("well")]))]
    with Group(None, 1) as group:
        assert doctor.examine(Context(resolve([], {}).settings, 30), group, wanted) == 1
    said = capsys.readouterr().out.splitlines()
    assert [re.split(r" +|;", line, maxsplit=2)[:2] for line in said] == [
        ["ok", "one:"], ["failed", "one:"], ["ok", "two:"], ["failed", "two:"], ["ok", "three:"],
    ]  # fmt: skip
    assert "ZeroDivisionError: by zero" in said[1]
    assert "no answer within 0.2 s" in said[3]
    assert "--timeout 60" in said[3]


def test_a_file_that_never_answers(usual: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A manifest on a dead file server, simulated by a pipe without a writer."""
    copy = shutil.copytree(usual["PREPROCESSED_PATH"], tmp_path / "data")
    os.mkfifo(manifest_path(min(copy.glob("*.bin")).with_suffix("")))
    given = {**usual, "PREPROCESSED_PATH": str(copy), "JOB_DIR": str(tmp_path / "runs")}
    start = time.monotonic()
    with Group(None, 1) as group:
        here = Context(resolve(arguments(given), {}).settings, 0.5)
        wanted = [Check("inputs", data.inputs_of_run), Check("directories", filesystems.room)]
        assert doctor.examine(here, group, wanted) == 1
    assert time.monotonic() - start < 10
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("failed   inputs:       no answer within 0.5 s; check what hangs")
    assert said[1].startswith("ok       directories:")


# --- Versions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes Python find a package in another version before the real one."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, version: str) -> None:
        directory = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        directory.mkdir()
        (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    return install


def test_pins_hold_here(usual: dict[str, str]) -> None:
    assert texts(versions.check(context(usual))) == []


def test_other_versions(usual: dict[str, str], installed: Callable[[str, str], None]) -> None:
    for name, version in (("transformers", "4.50.0"), ("torch", "2.9.0a0"), ("aiohttp", "3.0"), ("zarr", "2.18.7+own")):
        installed(name, version)
    assert texts(versions.check(context(usual))) == [
        "transformers 4.50.0 is installed, 4.57.6 is pinned; bash dev/setup.sh creates .venv with the pinned versions"
    ]
    torch, drifted = sorted(texts(versions.check(context(usual)), Severity.warning))
    assert drifted.startswith("versions differ from requirements.lock: aiohttp 3.0 (")
    assert torch.startswith("torch 2.9.0a0 is installed, ")


@pytest.mark.parametrize(
    ("version", "fits"), [("2.9.0", True), ("2.9.0a0+g1", True), ("2.10.0", False), ("2.8", False)]
)
def test_transformer_engine(
    version: str, fits: bool, usual: dict[str, str], installed: Callable[[str, str], None]
) -> None:
    """Megatron-Core 0.15.3 asks for >=2.9.0a0,<2.10."""
    installed("transformer_engine", version)
    wrong = texts(versions.check(context(usual)))
    assert [line.partition(";")[0] for line in wrong] == (
        [] if fits else [f"Transformer Engine {version} is installed, Megatron-Core asks for <2.10.0,>=2.9.0a0"]
    )


def test_a_python_without_the_packages(usual: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = context(usual)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    wrong = texts(versions.check(here))
    assert any(line.startswith("megatron-core is not installed, 0.15.3 is pinned; bash dev/setup.sh") for line in wrong)


# --- Devices and ranks --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_gpu(usual: dict[str, str]) -> None:
    """CUDA_VISIBLE_DEVICES hides this machine's GPUs, if any."""
    (line,) = texts(gpus.check(context(usual, DEVICE="cuda")))
    assert re.match("torch .* is a CPU-only build|torch finds no GPU here", line), line
    assert "DEVICE=cpu" in line


@pytest.mark.gpu
def test_gpus(usual: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if not devices.gpus():
        pytest.skip("there is no CUDA device")
    import torch

    count = torch.cuda.device_count()
    here = context(usual, DEVICE="cuda", GPUS_PER_NODE=str(count), GPU="MI300X")
    found = list(gpus.check(here))
    assert any(line.startswith("GPU=MI300X, but this is ") for line in texts(iter(found), Severity.warning))
    assert any(
        line.startswith(f"{count} x {torch.cuda.get_device_name(0)}") for line in texts(iter(found), Severity.ok)
    )
    more = context(usual, DEVICE="cuda", GPUS_PER_NODE=str(count + 1))
    assert f"{count} GPUs found, the settings ask for {count + 1}" in texts(gpus.check(more))[0]
    assert texts(collectives.check(here)) == []


# --- Directories --------------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small(usual: dict[str, str], small_disk: Path) -> None:
    """One checkpoint takes 5.3 MB: 7 MB hold one, but not the two that are kept and a third."""
    here = context(usual, SAVE_CKPT="1", CONTINUAL_CKPT=str(small_disk / "checkpoints"))
    (line,) = texts(filesystems.room(here), Severity.warning)
    assert re.search(r"checkpoints: 7\.\d+ MB free, all kept checkpoints need 16 MB;", line), line
    assert texts(filesystems.speed(here)) == []
    (small_disk / "filler").write_bytes(bytes(3 << 20))
    (line,) = texts(filesystems.room(here))
    assert re.search(r"checkpoints: 4\.\d+ MB free, a run needs 5\.\d+ MB; free some space", line), line
    assert texts(filesystems.speed(here)) == []
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_place_that_cannot_be_written(usual: dict[str, str], tmp_path: Path) -> None:
    """Below a file, which not even root can write to."""
    (tmp_path / "file").touch()
    here = context({**usual, "JOB_DIR": str(tmp_path / "file" / "runs")})
    assert texts(filesystems.speed(here))[0].startswith(f"JOB_DIR={tmp_path}/file/runs: Not a directory; name a dir")


def test_a_checkpoint_that_is_not_there(usual: dict[str, str]) -> None:
    (line,) = texts(filesystems.room(context(usual, MODEL_CKPT="/data/none", USE_CKPT="1")))
    assert line.startswith("MODEL_CKPT=/data/none: No such file or directory")


# --- Data ---------------------------------------------------------------------------------------------------------


def test_inputs_that_run_would_refuse(usual: dict[str, str]) -> None:
    here = context(usual, TOKENIZER_PATH="/data/none", TENSOR_PARALLEL_SIZE="3")
    wrong = texts(data.inputs_of_run(here))
    assert any("TENSOR_PARALLEL_SIZE" in line for line in wrong)
    assert any(line.startswith("TOKENIZER_PATH=/data/none: no such directory") for line in wrong)
    assert list(data.tokenizer(here)) == []


def test_a_damaged_token_file_is_found_by_verify(usual: dict[str, str], tmp_path: Path) -> None:
    """An id in its middle that no tokenizer has; a look at the ends of the file does not show it."""
    copy = shutil.copytree(usual["PREPROCESSED_PATH"], tmp_path / "data")
    largest = max(copy.glob("*.bin"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    here = context({**usual, "PREPROCESSED_PATH": str(copy)})
    assert texts(data.verified(here)) == []
    middle = len(content) // 4 * 2
    content[middle : middle + 2] = b"\xff\xff"
    largest.write_bytes(content)
    (line,) = texts(data.verified(here))
    assert largest.name in line
    assert line.endswith("download or tokenize that file again, and verify it")


# --- Slurm --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_slurm_that_does_not_answer(usual: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    debian.need("sinfo", "slurm-wlm", "munge")
    monkeypatch.setenv("SLURM_CONF", "/data/none")
    (line,) = texts(tools.check(context(usual, timeout=2, PARTITION="debug")))
    assert line.startswith("Slurm does not answer: ")


def test_slurm_that_is_not_there(usual: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    slurm, containers = texts(tools.check(context(usual, PARTITION="debug", IMAGE="image.sqsh")))
    assert slurm == "PARTITION=debug, but sbatch is not installed here; submit from a login node of Slurm"
    assert containers.startswith("IMAGE=image.sqsh, but srun has no --container-image (pyxis)")


def test_findings_of_many_nodes_become_few_lines() -> None:
    full = Finding(Severity.failed, "full", "make room")
    found = {f"n{number}": [ok("written at", 1e9 + number)] for number in range(5)}
    found["n3"].append(full)
    assert list(lines("disk", found)) == [
        "ok       disk:         written at 1 GB/s on n0, the slowest",
        "failed   disk:         n3: full; make room",
    ]
    everywhere = {node: [full] for node in ("a", "b", "c", "d", "e")}
    assert list(lines("disk", everywhere)) == ["failed   disk:         full; make room"]
    most = {**everywhere, "f": []}
    assert list(lines("disk", most)) == ["failed   disk:         a, b, c and 2 more: full; make room"]


def test_node_lists() -> None:
    assert list(expanded("n[08-10,20],m1,r[1-2]c[3,5]-ib")) == [
        "n08", "n09", "n10", "n20", "m1", "r1c3-ib", "r1c5-ib", "r2c3-ib", "r2c5-ib",
    ]  # fmt: skip
