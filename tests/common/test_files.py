"""Writing, syncing and hashing files, and finding space for them."""

import errno
import hashlib
import math
import os
import shutil
from pathlib import Path

import pytest

from llama31.common import files
from llama31.common.errors import UserError


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the synced files and directories, in order."""
    names: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return names


def test_an_atomic_file_replaces_the_old_one_when_the_block_ends(tmp_path: Path, synced: list[str]) -> None:
    path = tmp_path / "new" / "file"
    for content in (b"old", b"new"):
        with files.atomic_writer(path) as file:
            assert not path.exists() or path.read_bytes() == b"old"
            file.write(content)
        assert path.read_bytes() == content
    assert synced == [f"file{files.PARTIAL}", "new"] * 2
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_an_atomic_file_keeps_the_old_one_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), files.atomic_writer(path) as file:
        file.write(b"new")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_atomic_file_does_not_replace_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "there", Path("/dev/null")):
        with pytest.raises(UserError, match=f"{path}: not a regular file"), files.atomic_writer(path):
            pytest.fail("opened")


def test_a_failure_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error, files.atomic_writer(Path("/proc/no/file")):
        pytest.fail("opened")
    assert error.value.lines == ["/proc/no/file: No such file or directory"]
    with pytest.raises(UserError) as error:
        files.sha256_of(tmp_path / "missing")
    assert error.value.lines == [f"{tmp_path}/missing: No such file or directory"]


@pytest.mark.parametrize(
    ("directories_only", "wanted"),
    [(False, ["a", "b", "empty", "root", "under"]), (True, ["empty", "root", "under"])],
)
def test_a_tree_is_synced_to_its_root(
    directories_only: bool, wanted: list[str], tmp_path: Path, synced: list[str]
) -> None:
    root = tmp_path / "root"
    (root / "under").mkdir(parents=True)
    (root / "empty").mkdir()
    for file in (root / "a", root / "under" / "b"):
        file.touch()
    files.sync_tree(root, directories_only=directories_only)

    assert sorted(synced) == wanted
    assert synced[-1] == "root", "an entry is on disk only when its file is"


@pytest.mark.parametrize("from_disk", [False, True])
def test_sizes_and_hashes(from_disk: bool, tmp_path: Path) -> None:
    path, content = tmp_path / "file", os.urandom(2 * files.HASH_BYTES + 17)
    path.write_bytes(content)
    wanted = len(content), hashlib.sha256(content).hexdigest()
    read: list[int] = []
    assert files.size_and_sha256(path, read.append, from_disk=from_disk) == wanted
    assert sum(read) == len(content) and len(read) >= 3
    assert files.sha256_of(path) == wanted[1]


def test_the_nearest_existing_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.nearest_existing(tmp_path) == tmp_path
    assert files.nearest_existing(tmp_path / "a" / "b") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert files.nearest_existing(Path("a/b")) == tmp_path


def test_what_can_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert files.can_be_created(tmp_path) and files.can_be_created(tmp_path / "a" / "b")
    assert not files.can_be_created(tmp_path / "file")
    assert not files.can_be_created(tmp_path / "file" / "a")
    assert not files.can_be_created(tmp_path / ("a" * 300))
    if os.geteuid():
        tmp_path.chmod(0o500)
        assert not files.can_be_created(tmp_path / "a")


@pytest.mark.parametrize("has_links", [True, False])
def test_of_two_files_the_first_gets_the_name(has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    parts = [tmp_path / "a", tmp_path / "b"]
    for part in parts:
        part.write_text(part.name)
    files.rename_if_first(parts[0], tmp_path / "file")
    with pytest.raises(FileExistsError):
        files.rename_if_first(parts[1], tmp_path / "file")
    assert (tmp_path / "file").read_text() == "a"
    assert [part.exists() for part in parts] == [False, True]


def test_a_file_system_without_a_size_is_not_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FUSE file systems without statfs, and a tmpfs without a limit: all figures are 0."""
    usage = shutil.disk_usage(tmp_path)
    assert 0 < files.free_bytes(tmp_path / "none") < math.inf
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=0, free=0))
    assert files.free_bytes(tmp_path) == math.inf
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    assert files.free_bytes(tmp_path) == 0
