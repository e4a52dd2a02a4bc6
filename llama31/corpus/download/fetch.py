"""Download published files to a directory, in pieces that are fetched in parallel and never twice."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

from llama31.common.errors import UserError
from llama31.common.files import failures_named, free_bytes
from llama31.common.locks import only_run_in
from llama31.common.parallel import run_all
from llama31.common.progress import Progress
from llama31.common.units import size
from llama31.corpus.download.journal import Range
from llama31.corpus.download.remote import Remote, RemoteFile, Version
from llama31.corpus.download.retries import retry
from llama31.corpus.download.target import Target, Transfers
from llama31.corpus.download.verified import VerifiedFiles

SHARD = re.compile(r"c4-(train|validation)\.\d{5}-of-\d{5}\.json")


def download(remote: Remote, directory: Path, is_wanted: Callable[[RemoteFile], bool], jobs: int) -> str:
    """Fetch the wanted files, `jobs` pieces at a time; return a summary line.

    Files that exist are verified, not fetched. Raises UserError with a line for each file that failed.
    """
    stop = Event()
    files = [file for file in retry(remote.files, stop, _show) if is_wanted(file)]
    with failures_named(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with only_run_in(directory):
        verified = VerifiedFiles(directory)
        compressed = [file for file in files if _is_compressed_here(directory / file.path)]
        unchanged = [file for file in files if verified.is_verified(file)]
        skipped = {*compressed, *unchanged}
        targets = _targets(remote, directory, [file for file in files if file not in skipped], jobs, stop)
        try:
            figures = _fetch(remote, directory, targets, verified, jobs, stop)
        except KeyboardInterrupt:
            print(f"{directory}: interrupted; run the same command to resume", file=sys.stderr)
            raise
        finally:
            verified.save()
    return f"{directory}: {len(files):,} files; fetched {figures}; {_state(files, unchanged, compressed)}"


def _show(line: str) -> None:
    """Print why it takes long, before there is a progress bar."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr)


def _is_compressed_here(path: Path) -> bool:
    """Return whether a shard of C4 was compressed after its download, which removes the original."""
    return bool(SHARD.fullmatch(path.name)) and not path.exists() and path.with_name(f"{path.name}.gz").exists()


def _targets(remote: Remote, directory: Path, files: Sequence[RemoteFile], jobs: int, stop: Event) -> list[Target]:
    """Query the versions of all files; return their targets. Raises UserError with a line for each unusable file."""
    versions: dict[str, Version] = {}

    def query(file: RemoteFile) -> None:
        versions[file.path] = retry(lambda: remote.version(file), stop, _show)

    run_all(query, files, jobs, stop)
    targets, lines = [], []
    for file in files:
        try:
            targets.append(Target(file, versions[file.path], directory / file.path))
        except UserError as error:
            lines += error.lines
    if lines:
        raise UserError(lines)
    return targets


def _fetch(
    remote: Remote, directory: Path, targets: Sequence[Target], verified: VerifiedFiles, jobs: int, stop: Event
) -> str:
    """Fetch the missing bytes of the targets and check them; return bytes, time and rate."""
    missing = sum(target.missing for target in targets)
    to_hash = sum(target.to_hash for target in targets)
    free = free_bytes(directory)
    if missing > free:
        raise UserError(f"{directory}: {size(missing)} to fetch, and {size(free)} of disk space are free")
    for target in targets:
        target.prepare()

    with (
        Progress("download", missing, quiet=not missing) as fetched,
        Progress("check", to_hash, quiet=not to_hash) as hashed,
    ):
        run = Transfers(remote, stop, fetched, hashed)

        def work(task: tuple[Target, Range | None]) -> None:
            target, piece = task
            if piece:
                target.fetch(run, piece)
            if not piece or target.finish_piece():
                target.finish(run, verified)

        tasks: list[tuple[Target, Range | None]] = []
        for target in targets:
            tasks += [(target, piece) for piece in target.pieces or (None,)]
        run_all(work, tasks, jobs, stop)
        return fetched.figures()


def _state(files: Sequence[RemoteFile], unchanged: Sequence[RemoteFile], compressed: Sequence[RemoteFile]) -> str:
    """Return which files were verified, for the summary line."""
    hashed = sum(bool(file.md5) for file in files) - len(compressed)
    state = "sizes and MD5s match"
    if hashed < len(files) - len(compressed):
        state = f"sizes match, and MD5s of the {hashed:,} files that have a published one"
    if unchanged:
        state += f"; {len(unchanged):,} of them were checked before and are unchanged"
    if compressed:
        state += f"; not checked: {len(compressed):,} compressed here since"
    return state
