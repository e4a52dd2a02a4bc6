"""Merging C4's shards."""

import gzip
from pathlib import Path

import pytest

from llama31 import rules
from llama31.corpus.consolidate import VALIDATION_FILE, merge_part, merge_validation
from llama31.errors import UserError

SHARDS = (768, 770, 895)


@pytest.fixture
def c4(tmp_path: Path) -> Path:
    directory = tmp_path / "c4"
    directory.mkdir()
    for shard in SHARDS:
        content = "".join(f'{{"text":"{shard} {line}"}}\n' for line in range(5)).encode()
        (directory / rules.train_shard_name(shard)).write_bytes(gzip.compress(content))
    for shard in range(8):
        content = "".join(f'{{"text":"{shard} {line}"}}\n' for line in range(3)).encode()
        (directory / rules.validation_shard_name(shard)).write_bytes(gzip.compress(content))
    return directory


def texts(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def test_members_are_joined_as_they_are(c4: Path, tmp_path: Path) -> None:
    merged = merge_part(c4, tmp_path / "merged", 6, SHARDS)
    assert merged.name == "c4-train.en_6.json.gz"
    assert merged.read_bytes() == b"".join((c4 / rules.train_shard_name(shard)).read_bytes() for shard in SHARDS)
    assert texts(merged) == [f'{{"text":"{shard} {line}"}}' for shard in SHARDS for line in range(5)]


def test_done_is_skipped_and_changed_is_not(c4: Path, tmp_path: Path) -> None:
    merged = merge_part(c4, tmp_path / "merged", 6, SHARDS)
    first = merged.stat().st_ino
    assert merge_part(c4, tmp_path / "merged", 6, SHARDS).stat().st_ino == first
    merged.write_bytes(merged.read_bytes()[:-1])
    assert merge_part(c4, tmp_path / "merged", 6, SHARDS).stat().st_ino != first
    shard = c4 / rules.train_shard_name(770)
    shard.write_bytes(shard.read_bytes() * 2)
    assert len(texts(merge_part(c4, tmp_path / "merged", 6, SHARDS))) == 20


def test_missing_shards_are_all_listed(c4: Path, tmp_path: Path) -> None:
    (c4 / rules.train_shard_name(769)).write_bytes(b"no gzip")
    with pytest.raises(UserError) as error:
        merge_part(c4, tmp_path / "merged", 6)
    (line,) = error.value.lines
    assert line.startswith("125 of the 128 shards of c4-train.en_6.json.gz cannot be used: ")
    for shard in range(768, 896):
        assert (rules.train_shard_name(shard) in line) == (shard not in SHARDS)
    assert line.count("(not gzip)") == 1
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("sample", [1, 7, 24])
def test_validation_set_is_the_first_documents(c4: Path, tmp_path: Path, sample: int) -> None:
    target = merge_validation(c4, tmp_path / "merged", sample)
    assert target.name == f"c4-validation-{sample}-samples.en.json.gz"
    everything = texts(tmp_path / "merged" / VALIDATION_FILE)
    assert len(everything) == 24
    assert texts(target) == everything[:sample]
    first = target.stat().st_ino, target.read_bytes()
    assert merge_validation(c4, tmp_path / "merged", sample).stat().st_ino == first[0]
    target.unlink()
    assert merge_validation(c4, tmp_path / "merged", sample).read_bytes() == first[1]


def test_too_few_validation_documents(c4: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        merge_validation(c4, tmp_path / "merged", 25)
    (line,) = error.value.lines
    assert "holds 24 documents, fewer than the 25" in line
    assert [path.name for path in (tmp_path / "merged").iterdir()] == [VALIDATION_FILE]


def test_truncated_validation_shard(c4: Path, tmp_path: Path) -> None:
    shard = c4 / rules.validation_shard_name(7)
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(UserError) as error:
        merge_validation(c4, tmp_path / "merged", 24)
    assert error.value.lines == [f"{tmp_path / 'merged' / VALIDATION_FILE}: truncated gzip file"]


def test_full_disk(c4: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "c4-train.en_6.json.gz.partial").symlink_to("/dev/full")
    with pytest.raises(UserError) as error:
        merge_part(c4, merged, 6, SHARDS)
    assert error.value.lines == [f"{merged / 'c4-train.en_6.json.gz'}: No space left on device"]
    assert not list(merged.iterdir())
