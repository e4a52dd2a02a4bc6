"""The download over HTTP, from a faulty server on loopback."""

import hashlib
import os
import random
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from threading import Event

import pytest

from dev.support.file_server import FileServer, running
from llama31.common.errors import UserError
from llama31.common.units import size
from llama31.corpus.download import fetch, published, remote, retries, target, web
from llama31.corpus.download.journal import Journal

PIECE_BYTES = 64 << 10
BIG = "c4-train.en_6_text_document.bin"
FILES = {
    BIG: random.Random(1).randbytes(10 * PIECE_BYTES + 123),
    "c4-train.en_6_text_document.idx": random.Random(2).randbytes(1234),
    "deeper/100% é #1 name (a).txt": b"text\n",
    "LICENSE one.txt": b"licence\n",
    "empty": b"",
}
SIZE = sum(map(len, FILES.values()))


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running() as state:
        yield state


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each requested pause, none of which takes time; pieces of 64 KiB."""
    made: list[float] = []
    monkeypatch.setattr(retries, "pause", lambda _, seconds: made.append(seconds))
    monkeypatch.setattr(target, "PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setattr(target, "RECORD_BYTES", PIECE_BYTES // 4)
    monkeypatch.setattr(published, "READ_BYTES", PIECE_BYTES // 8)
    return made


def download(uri: str, directory: Path, what: str = "", jobs: int = 4, **environment: str) -> str:
    wanted = published.selection(what, [6], weights=False)
    return fetch.download(published.PublishedSet(uri, environment), directory, wanted, jobs)


def refused(uri: str, directory: Path, **environment: str) -> str:
    """Return the only error line of a failing download."""
    with pytest.raises(UserError) as error:
        download(uri, directory, **environment)
    (line,) = error.value.lines
    return line


def contents(directory: Path) -> dict[str, bytes]:
    """All files except the record of checked ones."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != remote.CHECKED]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_all_files_arrive_and_are_remembered(server: FileServer, waits: list[float], tmp_path: Path) -> None:
    uri = server.publish("set", FILES)
    directory = tmp_path / "a $HOME of data"
    line = download(uri, directory)
    assert line.startswith(f"{directory}: 5 files; fetched {size(sum(map(len, FILES.values())))} in ")
    assert line.endswith("; sizes and MD5s match")
    assert contents(directory) == FILES
    assert server.served < SIZE + 1000, "sizes are found without fetching the files"
    server.forget()
    assert download(uri, directory).endswith("; 5 of them were checked before and are unchanged")
    assert [request.path for request in server.requests] == ["metadata/set.uri", "metadata/set.md5"]
    os.utime(directory / BIG)  # what was touched is read again, and not fetched
    server.forget()
    assert download(uri, directory).endswith("; 4 of them were checked before and are unchanged")
    assert server.served < 1000
    assert not waits


def test_damage_is_found_also_with_the_old_time(server: FileServer, waits: list[float], tmp_path: Path) -> None:
    uri = server.publish("set", FILES)
    download(uri, tmp_path)
    before = (tmp_path / BIG).stat()
    with open(tmp_path / BIG, "r+b") as file:
        file.write(bytes([FILES[BIG][0] ^ 1]))
    os.utime(tmp_path / BIG, ns=(before.st_atime_ns, before.st_mtime_ns))
    right = hashlib.md5(FILES[BIG]).hexdigest()
    line = refused(uri, tmp_path)
    assert line.startswith(f"{tmp_path / BIG}: MD5 ")
    assert line.endswith(f", the published file's is {right}; move or remove it to fetch it")
    assert (tmp_path / BIG).exists()


def test_many_files(server: FileServer, waits: list[float], tmp_path: Path) -> None:
    files = {f"{number % 7}/{number}": str(number).encode() for number in range(50)}
    assert "50 files" in download(server.publish("set", files), tmp_path)
    assert contents(tmp_path) == files


def test_cut_connections_cost_nothing_twice(server: FileServer, waits: list[float], tmp_path: Path) -> None:
    uri = server.publish("set", FILES)
    server.cuts = [PIECE_BYTES // 2, 1000, PIECE_BYTES - 1]
    download(uri, tmp_path)
    assert not server.cuts, "all cuts took place"
    assert contents(tmp_path) == FILES
    assert server.served < SIZE + 1000
    assert len(waits) == 3


@pytest.mark.parametrize("status", [429, 500, 503, 522])
def test_busy_server(status: int, server: FileServer, waits: list[float], tmp_path: Path) -> None:
    """Pauses double; a pause that the server asks for is honoured, up to ten minutes."""
    uri = server.publish("set", {"a": b"a"})
    later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=300), usegmt=True)
    asked = [{}, {}, {}, {"Retry-After": "120"}, {"Retry-After": later}, {"Retry-After": "86400"}, {"Retry-After": "?"}]
    server.answers["metadata/set.uri"] = [(status, headers) for headers in asked]
    download(uri, tmp_path, jobs=1)
    assert contents(tmp_path) == {"a": b"a"}
    low = [0.5, 1, 2, 120, 290, retries.LONGEST_ASKED, 30]
    high = [1, 2, 4, 120, 300, retries.LONGEST_ASKED, 60]
    assert len(waits) == len(low)
    assert all(least <= wait <= most for least, wait, most in zip(low, waits, high, strict=True)), waits


def test_one_file_is_never_served(server: FileServer, waits: list[float], tmp_path: Path) -> None:
    """If it is so from the beginning, nothing is fetched; if it ends in between, the other files arrive."""
    uri = server.publish("set", FILES)
    server.answers["data/empty"] = [(503, {})] * retries.ATTEMPTS
    line = refused(uri, tmp_path)
    assert line == f"{server.url}/data/empty: HTTP 503 Service Unavailable; gave up after {retries.ATTEMPTS} attempts"
    assert not contents(tmp_path)
    download(uri, tmp_path)
    server.answers[f"data/{BIG}"] = [(206, {"Content-Range": f"bytes 0-0/{len(FILES[BIG])}"})] + [(502, {})] * 1000
    (tmp_path / BIG).unlink()
    (tmp_path / "empty").unlink()
    line = refused(uri, tmp_path)
    assert line.startswith(f"{tmp_path / BIG}: {server.url}/data/{BIG}: HTTP 502 Bad Gateway; gave up after ")
    assert line.endswith("run the same command to resume")


def test_dead_server_is_one_line(server: FileServer, waits: list[float], tmp_path: Path) -> None:
    """If nothing arrives at all, no piece of any file is retried further."""
    files = {str(number): bytes(PIECE_BYTES * 2) for number in range(20)}
    uri = server.publish("set", files)
    source = published.PublishedSet(uri, {})
    versions = {file.path: source.version(file) for file in source.files()}

    class Dying(published.PublishedSet):
        def version(self, file: published.RemoteFile) -> published.Version:
            return versions[file.path]

        def files(self) -> list[published.RemoteFile]:
            found = super().files()
            server.answers[""] = [(503, {})] * 10_000
            return found

    server.forget()
    with pytest.raises(UserError) as error:
        fetch.download(Dying(uri, {}), tmp_path, lambda _: True, 2)
    (line,) = error.value.lines
    assert line.endswith("run the same command to resume")
    assert len(server.requests) < 2 + 3 * retries.ATTEMPTS
    server.answers.clear()
    download(uri, tmp_path)
    assert contents(tmp_path) == files


def test_wrong_bytes(server: FileServer, waits: list[float], tmp_path: Path) -> None:
    uri = server.publish("set", FILES)
    server.sent[f"data/{BIG}"] = FILES[BIG][:-1] + b"?"
    line = refused(uri, tmp_path)
    assert line.startswith(f"{tmp_path / BIG}: MD5 ")
    assert line.endswith(
        f", the published file's is {hashlib.md5(FILES[BIG]).hexdigest()}; "
        "removed; run the same command to fetch it again"
    )
    assert contents(tmp_path) == {name: content for name, content in FILES.items() if name != BIG}
    server.sent.clear()
    download(uri, tmp_path)
    assert contents(tmp_path) == FILES


def test_part_that_was_not_asked_for(server: FileServer, waits: list[float], tmp_path: Path) -> None:
    uri = server.publish("set", {"a": bytes(1000)})
    server.shift = 10
    assert "the response starts at byte 10 instead of 0; gave up after " in refused(uri, tmp_path)
    assert len(waits) == retries.ATTEMPTS - 1


@pytest.mark.parametrize("has_tags", [True, False])
def test_without_ranges(has_tags: bool, server: FileServer, waits: list[float], tmp_path: Path) -> None:
    """The server resends a cut piece from the beginning, and only its rest is used."""
    server.has_ranges, server.has_tags = False, has_tags
    uri = server.publish("set", FILES)
    server.cuts = [PIECE_BYTES * 5, PIECE_BYTES * 7]
    download(uri, tmp_path)
    assert contents(tmp_path) == FILES
    assert not server.cuts


def interrupted_halfway(server: FileServer, uri: str, directory: Path) -> None:
    """A run that ends with half of the big file downloaded."""
    server.cuts = [PIECE_BYTES // 2]
    server.answers[f"data/{BIG}"] = []
    total = len(FILES[BIG])

    class Ending(published.PublishedSet):
        def read(
            self, file: published.RemoteFile, version: published.Version, offset: int, count: int
        ) -> Iterator[bytes]:
            if file.path == BIG and offset > total // 2:
                raise UserError("ended by the test")
            yield from super().read(file, version, offset, count)

    with pytest.raises(UserError, match="ended by the test"):
        fetch.download(Ending(uri, {}), directory, lambda _: True, 1)
    assert (directory / f"{BIG}.partial").is_file()
    server.cuts = []
    server.forget()


def test_resumes_only_the_rest(server: FileServer, waits: list[float], tmp_path: Path) -> None:
    uri = server.publish("set", FILES)
    interrupted_halfway(server, uri, tmp_path)
    download(uri, tmp_path)
    assert contents(tmp_path) == FILES
    assert server.served < len(FILES[BIG]) // 2 + 1000
    parts = [request.headers for request in server.requests if request.path == f"data/{BIG}"][1:]
    assert all(headers["If-Range"] == f'"{hashlib.md5(FILES[BIG]).hexdigest()}"' for headers in parts)


@pytest.mark.parametrize("has_tags", [True, False])
def test_changed_between_two_runs(has_tags: bool, server: FileServer, waits: list[float], tmp_path: Path) -> None:
    """Pieces of the old version are not used, also if only the list of MD5s shows that it is another."""
    server.has_tags = has_tags
    uri = server.publish("set", FILES)
    interrupted_halfway(server, uri, tmp_path)
    changed = {**FILES, BIG: random.Random(3).randbytes(len(FILES[BIG]))}
    server.publish("set", changed)
    download(uri, tmp_path)
    assert contents(tmp_path) == changed


def test_changed_between_two_attempts(
    server: FileServer, waits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If-Range makes the server send the whole new version; it is not mixed with the old one."""
    uri = server.publish("set", FILES)
    server.cuts = [PIECE_BYTES // 2]
    changed = {**FILES, BIG: random.Random(3).randbytes(len(FILES[BIG]))}
    monkeypatch.setattr(retries, "pause", lambda *_: server.publish("set", changed))
    line = refused(uri, tmp_path)
    assert line == f"{server.url}/data/{BIG}: changed during the download; run the same command to start over"
    download(uri, tmp_path)
    assert contents(tmp_path) == changed


def test_slow_server(server: FileServer, waits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is idle for too long is closed and resumed."""
    uri = server.publish("set", FILES)
    monkeypatch.setattr(web, "TIMEOUTS", (0.2, 0.2))
    server.hold_at = SIZE // 2

    def release(_: Event, seconds: float) -> None:
        server.hold_at = None

    monkeypatch.setattr(retries, "pause", release)
    download(uri, tmp_path)
    assert server.hold_at is None
    assert contents(tmp_path) == FILES


def test_disk_is_too_small(server: FileServer, waits: list[float], tmp_path: Path, small_disk: Path) -> None:
    files = {"a": random.Random(1).randbytes(9_000_000)}
    uri = server.publish("set", files)
    assert re.fullmatch(rf"{small_disk}: 9 MB to fetch, and 7\.\d+ MB of disk space are free", refused(uri, small_disk))
    assert server.served < 1000
    assert not contents(small_disk)


def test_disk_fills_up(
    server: FileServer, waits: list[float], small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloaded bytes are kept; with more disk space, only the rest is fetched."""
    files = {"a": random.Random(1).randbytes(5_000_000)}
    uri = server.publish("set", files)
    (small_disk / "others").write_bytes(bytes(4_000_000))
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(small_disk)
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 40))
        assert refused(uri, small_disk) == f"{small_disk}/a: No space left on device"
    assert not (small_disk / "a").exists()
    (small_disk / "others").unlink()
    server.forget()
    download(uri, small_disk)
    assert contents(small_disk) == files
    assert server.served < 4_000_000


def test_own_file_of_that_name_is_kept(server: FileServer, waits: list[float], tmp_path: Path) -> None:
    """It is detected before anything is fetched."""
    uri = server.publish("set", FILES)
    (tmp_path / BIG).write_bytes(b"ours")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        download(uri, tmp_path)
    assert error.value.lines == [
        f"{tmp_path / BIG}: 4 bytes, the published file has {len(FILES[BIG]):,} bytes; move or remove it",
        f"{tmp_path / 'empty'}: a directory, the published file has 0 bytes; move or remove it",
    ]
    assert contents(tmp_path) == {BIG: b"ours"}


def test_journal_survives_a_cut_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.pieces", "size=100")
    journal.clear()
    for start, end in ((50, 60), (0, 10), (10, 20)):
        journal.add(start, end)
    with open(tmp_path / "a.pieces", "a") as file:
        file.write("\n0000003")
    found = Journal(tmp_path / "a.pieces", "size=100")
    found.add(90, 100)
    for journal in (found, Journal(tmp_path / "a.pieces", "size=100")):
        assert journal.gaps(100) == [(20, 50), (60, 90)]
        assert (journal.prefix(), journal.end()) == (20, 100)
    assert Journal(tmp_path / "a.pieces", "size=101").gaps(100) == [(0, 100)]
