"""Tokenise the benchmark's files, with a process of `tokenize` for each.

The files are independent: each of several machines can tokenise a share of them, and a file that fails, or whose
process is killed, does not stop the others. A part can also be made from its 128 shards directly: each gives a token
file, and these are joined.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from llama31 import rules
from llama31.common.errors import UserError
from llama31.common.parallel import cores, run_all
from llama31.common.progress import Progress
from llama31.corpus.consolidate import require_numbering, train_shards
from llama31.corpus.join import join, remove, size
from llama31.corpus.tokenize_job import TokenizeJob
from llama31.data.token_file import summary
from llama31.data.tokenizer import tokenizer_file

CORES_PER_FILE = 8  # more hardly speed up one file: a single core reads its gzip stream


@dataclass(frozen=True)
class Task:
    """A file to tokenise."""

    source: Path
    prefix: Path
    """Path of the token file, without extension."""


@dataclass(frozen=True)
class Part:
    """A training part that is tokenised shard by shard."""

    job: TokenizeJob
    """Makes the part's token file from all its shards."""
    shards: list[Task]
    is_joined: bool

    @property
    def pieces(self) -> list[Path]:
        """Prefixes of the shards' token files."""
        return [shard.prefix for shard in self.shards]


@dataclass(frozen=True)
class Work:
    """The work needed for a set of token files."""

    prefixes: list[Path]
    """Prefixes of the token files."""
    tasks: list[Task]
    """Files to tokenise."""
    parts: list[Part]
    """Parts to join from shards."""


def from_merged(merged_dir: Path, preprocessed_dir: Path, parts: Sequence[int], sample: int) -> Work:
    """Return the work for merged training parts, and for the validation set of the first `sample` documents."""
    names = [*map(rules.train_part_name, parts), rules.validation_name(sample)]
    tasks = [Task(merged_dir / f"{name}.json.gz", preprocessed_dir / rules.token_file_name(name)) for name in names]
    return Work([task.prefix for task in tasks], tasks, [])


def from_shards(merged: Work, c4_dir: Path, parts: Sequence[int], tokenizer_dir: Path, bad_line_limit: int = 0) -> Work:
    """Return the work for the same token files, with the training parts made from their shards.

    `bad_line_limit`: bad lines that may be skipped in all shards of a part. Raises UserError if a shard is missing, or
    if a part's token file exists that was made from other inputs or with other options.
    """
    *_, validation = merged.tasks
    found = []
    for part, prefix in zip(parts, merged.prefixes, strict=False):
        shards = train_shards(c4_dir, part)
        require_numbering(shards)
        names = [shard.name.removesuffix(".json.gz") for shard in shards]
        pieces = [prefix.parent / "shards" / rules.token_file_name(name) for name in names]
        job = TokenizeJob(
            shards, prefix, tokenizer_dir, append_eod=False, json_key="text", bad_line_limit=bad_line_limit
        )
        found.append(Part(job, list(map(Task, shards, pieces)), job.finished() is not None))
    shard_tasks = [task for part in found if not part.is_joined for task in part.shards]
    return Work(merged.prefixes, [validation, *shard_tasks], found)


def share_of(tasks: Sequence[Task], share: str) -> Sequence[Task]:
    """Return the I-th of every N tasks for the share "I/N", all for "". Raises UserError if `share` is invalid."""
    if not share:
        return tasks
    index, _, count = share.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--share={share}: not I/N with I from 0 to N - 1; example: 0/2")
    return tasks[int(index) :: int(count)]


def default_jobs(tasks: Sequence[Task]) -> int:
    """Return how many files to tokenise at a time on this machine."""
    return max(1, min(len(tasks), cores() // CORES_PER_FILE))


def tokenize_all(tasks: Sequence[Task], tokenizer_dir: Path, jobs: int, threads: int, bad_line_limit: int = 0) -> None:
    """Tokenise files, `jobs` at a time with `threads` threads each; skip up to `bad_line_limit` bad lines of each.

    `tokenize` skips files whose output exists. Raises UserError with a line for each file that failed; its process has
    printed the reason to stderr.
    """
    tokenizer_file(tokenizer_dir)
    skipping = ["--on-bad-line=skip", f"--bad-line-limit={bad_line_limit}"] if bad_line_limit else []
    with _terminated_on_sigterm() as processes:

        def run(task: Task) -> None:
            command = [sys.executable, "-m", "llama31", "tokenize", f"--input={task.source}"]
            command += [f"--output-prefix={task.prefix}", f"--tokenizer={tokenizer_dir}", f"--threads={threads}"]
            command += skipping
            with subprocess.Popen(command) as process:
                processes.add(process)
            processes.remove(process)
            if process.returncode:
                raise UserError(f"{task.source}: FAILED ({_exit_text(process.returncode)})")

        run_all(run, tasks, jobs)


def _exit_text(returncode: int) -> str:
    return f"exit code {returncode}" if returncode > 0 else f"killed by {signal.Signals(-returncode).name}"


@contextmanager
def _terminated_on_sigterm() -> Iterator[set["subprocess.Popen[bytes]"]]:
    """Yield a set of processes to terminate when this one gets SIGTERM. (Ctrl-C reaches child processes anyway.)"""
    processes: set[subprocess.Popen[bytes]] = set()

    def end(signum: int, _: FrameType | None) -> None:
        for process in list(processes):
            process.terminate()
        sys.exit(128 + signum)

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield processes
    finally:
        signal.signal(signal.SIGTERM, former)


def finish(work: Work, jobs: int) -> str:
    """Join the parts made from shards; return a summary line.

    Raises UserError, before it joins anything, with a line for each file that has no complete token file.
    """
    incomplete = [
        f"{task.source}: not tokenised: {problem}" for task in work.tasks if (problem := _problem(task.prefix))
    ]
    if incomplete:
        raise UserError(incomplete)
    with Progress("join", sum(size(part.pieces) for part in work.parts if not part.is_joined)) as progress:
        run_all(lambda part: _join(part, progress), work.parts, jobs)
    found = [summary(prefix) for prefix in work.prefixes]
    documents, tokens = sum(file.documents for file in found), sum(file.tokens for file in found)
    return f"{len(found):,} token files done: {documents:,} documents, {tokens:,} tokens"


def _join(part: Part, progress: Progress) -> None:
    join(part.job, part.pieces, progress.add)
    remove(part.pieces)


def _problem(prefix: Path) -> str:
    """Return why a token file is incomplete; empty if it is complete."""
    try:
        summary(prefix)
    except UserError as error:
        return str(error)
    return ""
