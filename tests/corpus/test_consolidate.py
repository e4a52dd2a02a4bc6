"""Merging C4's shards, and utils/consolidate_data.sh."""

import gzip
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPOSITORY

from llama31 import rules
from llama31.common.errors import UserError
from llama31.corpus.consolidate import VALIDATION_FILE, consolidate, merge_part, merge_validation

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


@pytest.mark.parametrize("name", [rules.train_shard_name(768), rules.validation_shard_name(0)])
def test_shards_of_another_numbering(c4: Path, tmp_path: Path, name: str) -> None:
    """Among shards of the right numbering they are of no account."""
    kind, _, count = re.split(r"\.|-of-", name)[:3]
    other = f"{kind}.00001-of-00512.json.gz"
    (c4 / other).touch()
    merge_part(c4, tmp_path / "merged", 6, SHARDS)
    for shard in c4.glob(f"{kind}.*-of-{count}.*"):
        shard.unlink()
    with pytest.raises(UserError) as error:
        consolidate(c4, tmp_path / "other", [6], sample=7, jobs=1)
    line = f"{c4}: shards are numbered differently ({other}); expected {name}"
    assert error.value.lines == [line]


def test_missing_shards_are_all_listed(c4: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        merge_part(c4, tmp_path / "merged", 6)
    (line,) = error.value.lines
    assert line.startswith("125 shards cannot be used: ")
    for shard in range(768, 896):
        assert (f"{rules.train_shard_name(shard)} (missing)" in line) == (shard not in SHARDS)
    assert not (tmp_path / "merged").exists()


def test_shards_as_they_are_published_are_to_be_compressed(c4: Path, tmp_path: Path) -> None:
    shard = c4 / rules.train_shard_name(769)
    shard.with_suffix("").write_text("{}\n")
    with pytest.raises(UserError) as error:
        merge_part(c4, tmp_path / "merged", 6)
    (line,) = error.value.lines
    assert f"{shard} (not compressed), " in line
    assert line.endswith("; compress .json files with utils/parallel_compress_json_to_gz.sh")


def test_damaged_shards_are_all_listed(c4: Path, tmp_path: Path) -> None:
    shard = {number: c4 / rules.train_shard_name(number) for number in range(768, 776)}
    whole = gzip.compress(b'{"text":"x"}\n' * 1000)
    for number, content in {
        769: b"no gzip file at all",
        771: whole[:-3],  # within the trailer
        772: whole[:40],
        773: whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:],  # another checksum
        774: b"",
        775: gzip.compress(b'{"text":"no line end"}'),
    }.items():
        shard[number].write_bytes(content)
    with pytest.raises(UserError) as error:
        merge_part(c4, tmp_path / "merged", 6, shard)
    (line,) = error.value.lines
    assert line.startswith(f"{tmp_path}/merged/c4-train.en_6.json.gz: 6 of 8 shards cannot be used: ")
    reasons = ("is not gzip data", "truncated", "truncated", "damaged", "empty", "no line end after its last line")
    for number, reason in zip((769, 771, 772, 773, 774, 775), reasons, strict=True):
        assert f"{shard[number]} ({reason}" in line
    assert not list((tmp_path / "merged").iterdir())


def test_unreadable_shards_are_all_listed(c4: Path, tmp_path: Path) -> None:
    for number in (769, 771):
        (c4 / rules.train_shard_name(number)).symlink_to("/proc/self/mem")  # its first byte can't be read
    with pytest.raises(UserError) as error:
        merge_part(c4, tmp_path / "merged", 6, (768, 769, 771))
    listed = ", ".join(f"{c4 / rules.train_shard_name(number)} (Input/output error)" for number in (769, 771))
    assert error.value.lines == [f"{tmp_path}/merged/c4-train.en_6.json.gz: 2 of 3 shards cannot be used: {listed}"]


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
    assert ": 24 documents, c4-validation-25-samples.en.json.gz needs 25" in line
    assert [path.name for path in (tmp_path / "merged").iterdir()] == [VALIDATION_FILE]


def test_truncated_validation_shard(c4: Path, tmp_path: Path) -> None:
    shard = c4 / rules.validation_shard_name(7)
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(UserError) as error:
        merge_validation(c4, tmp_path / "merged", 24)
    merged = tmp_path / "merged" / VALIDATION_FILE
    assert error.value.lines == [f"{merged}: 1 of 8 shards cannot be used: {shard} (truncated)"]


def test_full_disk(c4: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "c4-train.en_6.json.gz.partial").symlink_to("/dev/full")
    with pytest.raises(UserError) as error:
        merge_part(c4, merged, 6, SHARDS)
    assert error.value.lines == [f"{merged / 'c4-train.en_6.json.gz'}: No space left on device"]
    assert not list(merged.iterdir())


SCRIPT = REPOSITORY / "utils" / "consolidate_data.sh"


# root may read everything, unless it gives up the capabilities for that
AS_ANY_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def start(*before: str, **env: object) -> subprocess.Popen[str]:
    cleared = {name: value for name, value in os.environ.items() if name not in ("PARTS", "N_VALIDATION_SAMPLES")}
    return subprocess.Popen(
        [*before, "bash", SCRIPT],
        env={**cleared, "LLAMA31_VENV": sys.prefix, **{name: str(value) for name, value in env.items()}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*before: str, expect: int = 0, **env: object) -> tuple[str, str]:
    process = start(*before, **env)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == expect, errors
    return out, errors


@pytest.fixture
def whole_c4(c4: Path) -> Path:
    """All shards of parts 5 and 6."""
    for shard in range(5 * 128, 7 * 128):
        (c4 / rules.train_shard_name(shard)).write_bytes(gzip.compress(f'{{"text":"{shard}"}}\n'.encode()))
    return c4


def test_script_makes_what_is_asked_for_and_skips_what_is_done(whole_c4: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    settings = {"C4_PATH": whole_c4, "MERGED_C4_PATH": merged, "PARTS": "6 5", "N_VALIDATION_SAMPLES": 7}
    out, errors = run(**settings)
    assert out.startswith(f"{merged}: part 5, part 6, validation and its first 7 documents; ")
    assert not errors
    names = {"c4-train.en_5", "c4-train.en_6", "c4-validation.en", "c4-validation-7-samples.en"}
    assert {path.name for path in merged.iterdir()} == {f"{name}.json.gz" for name in names}
    for part in (5, 6):
        numbers = range(128 * part, 128 * (part + 1))
        assert texts(merged / f"c4-train.en_{part}.json.gz") == [f'{{"text":"{number}"}}' for number in numbers]
    before = {path: path.stat().st_ino for path in merged.iterdir()}
    run(**settings)
    assert {path: path.stat().st_ino for path in merged.iterdir()} == before


def test_script_lists_missing_files_before_it_starts(whole_c4: Path, tmp_path: Path) -> None:
    (whole_c4 / rules.train_shard_name(700)).unlink()
    (whole_c4 / rules.validation_shard_name(3)).unlink()
    merged = tmp_path / "merged"
    _, errors = run(expect=2, C4_PATH=whole_c4, MERGED_C4_PATH=merged, PARTS="5 6 7", N_VALIDATION_SAMPLES=7)
    (line,) = errors.splitlines()
    assert line.startswith("130 shards cannot be used: ")
    assert all(f"/{rules.train_shard_name(shard)} (missing)" in line for shard in (700, *range(896, 1024)))
    assert f"/{rules.validation_shard_name(3)} (missing)" in line
    assert not merged.exists()


def test_script_continues_after_a_damaged_part(whole_c4: Path, tmp_path: Path) -> None:
    for shard in (641, 766):
        path = whole_c4 / rules.train_shard_name(shard)
        path.write_bytes(path.read_bytes()[:-1])
    merged = tmp_path / "merged"
    _, errors = run(expect=2, C4_PATH=whole_c4, MERGED_C4_PATH=merged, PARTS="5 6", N_VALIDATION_SAMPLES=7)
    (line,) = errors.splitlines()
    assert "c4-train.en_5.json.gz: 2 of 128 shards cannot be used" in line
    assert "00641" in line and "00766" in line
    assert (merged / "c4-train.en_6.json.gz").is_file()
    assert not (merged / "c4-train.en_5.json.gz").exists()


def test_script_without_permission(c4: Path, tmp_path: Path) -> None:
    """For some shards, then for their directory, then for that of the merged files."""
    merged = tmp_path / "merged"
    settings = {"C4_PATH": c4, "MERGED_C4_PATH": merged, "PARTS": "", "N_VALIDATION_SAMPLES": 7}
    closed = [c4 / rules.validation_shard_name(number) for number in (2, 5)]
    for shard in closed:
        shard.chmod(0)
    _, errors = run(*AS_ANY_USER, expect=2, **settings)
    listed = ", ".join(f"{shard} (Permission denied)" for shard in closed)
    assert errors == f"{merged / VALIDATION_FILE}: 2 of 8 shards cannot be used: {listed}\n"
    for directory, words in ((c4, "8 shards cannot be used: "), (merged, str(merged))):
        directory.chmod(0o600)
        _, errors = run(*AS_ANY_USER, expect=2, **settings)
        assert errors.startswith(words) and errors.count("\n") == 1
        assert errors.count("Permission denied") == (8 if directory == c4 else 1)
        directory.chmod(0o700)


def test_script_killed_and_started_again(whole_c4: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    settings = {"C4_PATH": whole_c4, "MERGED_C4_PATH": merged, "PARTS": "5 6", "N_VALIDATION_SAMPLES": 7, "JOBS": 1}
    process = start(**settings)
    while process.poll() is None and not list(merged.glob("c4-train.*")):
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run(**settings)
    assert len(list(merged.iterdir())) == 4
    assert len(texts(merged / "c4-train.en_6.json.gz")) == 128


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"C4_PATH": ""}, "C4_PATH: set it to the directory with the .json.gz files of C4"),
        ({"MERGED_C4_PATH": ""}, "MERGED_C4_PATH: set it to the directory for the merged files"),
        ({"PARTS": "6 8"}, 'PARTS="6 8": 8 is not one of the parts 0 to 7; example: PARTS="6 7"'),
        ({"PARTS": "", "N_VALIDATION_SAMPLES": 25}, ": 24 documents, c4-validation-25-samples.en.json.gz needs 25"),
    ],
)
def test_script_mistakes_are_one_line(setting: dict[str, object], line: str, c4: Path, tmp_path: Path) -> None:
    _, errors = run(expect=2, **{"C4_PATH": c4, "MERGED_C4_PATH": tmp_path / "merged", **setting})
    assert errors.endswith(f"{line}\n")
    assert errors.count("\n") == 1
