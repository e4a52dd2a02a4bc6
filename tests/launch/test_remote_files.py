"""What ssh runs to write a run directory: whole or not at all, wherever the connection breaks."""

import subprocess
from pathlib import Path

import pytest

from llama31.launch.slurm import remote_files

FILES = {"job.sbatch": "#!/bin/bash\necho 'é' \"$HOME\"\n", "settings.yaml": "", "run.json": "{" + " " * 2000 + "}\n"}


def run(script: str, *arguments: object, stdin: bytes) -> subprocess.CompletedProcess[str]:
    """What sh makes of a script with as much of its input as has arrived."""
    done = subprocess.run(
        ["sh", "-c", script, "sh", *map(str, arguments)], input=stdin, capture_output=True, timeout=60, check=False
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def unpacked(directory: Path, stdin: bytes) -> subprocess.CompletedProcess[str]:
    return run(remote_files.UNPACK, directory.parent / ".partial", directory, "run.json", "JOB_DIR=x", stdin=stdin)


def contents(directory: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in directory.iterdir()}


def test_a_directory_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """Of an archive that is cut off anywhere: in a header, in a file, between files, before the end's mark."""
    archive = remote_files.archive(FILES)
    parent = tmp_path / "it's $HOME"
    whole = []
    for number, length in enumerate(range(0, len(archive), 256)):
        done = unpacked(parent / str(number), archive[:length])
        assert (done.returncode, done.stderr) == (0, "")
        if (parent / str(number)).exists():
            assert done.stdout == "" and contents(parent / str(number)) == FILES
            whole.append(length)
        else:
            assert done.stdout.startswith("JOB_DIR=x: ") and len(done.stdout.splitlines()) == 1
    assert whole, "what follows the last file is not needed"
    assert min(whole) >= len(FILES) * 512 + 512 + 2048
    assert {file.name for file in parent.iterdir()} == {str(length // 256) for length in whole}


def test_a_directory_of_that_name_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    done = unpacked(tmp_path / "run", remote_files.archive(FILES))
    assert done.stdout.startswith("JOB_DIR=x: mv: ") and len(done.stdout.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["mine"]


@pytest.mark.parametrize("length", [0, 100, 600, None])
def test_a_file_is_added_whole_or_not_at_all(length: int | None, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("old")
    archive = remote_files.archive({"run.json": FILES["run.json"]})[:length]
    done = run(remote_files.ADD, tmp_path, ".partial", "run.json", stdin=archive)
    assert (done.returncode == 0) == (length is None)
    assert contents(tmp_path) == {"run.json": "old" if length is not None else FILES["run.json"]}


def test_a_file_is_not_added_to_a_removed_directory(tmp_path: Path) -> None:
    done = run(remote_files.ADD, tmp_path / "gone", ".partial", "run.json", stdin=remote_files.archive(FILES))
    assert done.returncode and "gone" in done.stderr
