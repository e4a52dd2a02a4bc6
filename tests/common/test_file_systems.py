"""File systems of one machine, and those that machines share."""

from pathlib import Path

import pytest

from llama31.common import file_systems


def test_disks_that_other_nodes_do_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(file_systems, "MOUNTS", mounts)
    shared, own = tmp_path / "a b", tmp_path / "a b" / "own"
    own.mkdir(parents=True)
    written = str(shared).replace(" ", r"\040")
    mounts.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:50 / {written} rw,relatime shared:1 - nfs4 server:/x rw\n"
        f"3 2 0:51 / {written}/own rw - tmpfs tmpfs rw\n"
    )
    found = {path: file_systems.is_on_own_disk(path) for path in (tmp_path, shared / "not yet", own / "not yet")}
    assert list(found.values()) == [True, False, True]
