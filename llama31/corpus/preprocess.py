"""The benchmark's files -> token files: which there are, and a process of `tokenize` for each.

The files are independent. So any number of machines can do a share of them each, and a file that fails, or whose
process is killed, does not keep the others from being done. A part can also be made from its 128 shards as they are:
each gives a token file of its own, and these are joined in the end.
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

CORES_PER_FILE = 8  # more hardly speed up one file: its gzip stream is read by one


@dataclass(frozen=True)
class Task:
    """A file to tokenise."""

    source: Path
    prefix: Path
    """Of the token file, without extension."""


@dataclass(frozen=True)
class Part:
    """A training part that is made from its shards."""

    job: TokenizeJob
    """Makes its token file from all its shards."""
    shards: list[Task]
    is_joined: bool

    @property
    def pieces(self) -> list[Path]:
        """Prefixes of the shards' token files."""
        return [shard.prefix for shard in self.shards]


@dataclass(frozen=True)
class Work:
    """What is to be done for a set of token files."""

    prefixes: list[Path]
    """Of the token files wanted."""
    tasks: list[Task]
    """Files to tokenise."""
    parts: list[Part]
    """Parts that are made from shards."""


def from_merged(merged_dir: Path, preprocessed_dir: Path, parts: Sequence[int], sample: int) -> Work:
    """Merged training parts, and the validation set of the first `sample` documents."""
    names = [*map(rules.train_part_name, parts), rules.validation_name(sample)]
    tasks = [Task(merged_dir / f"{name}.json.gz", preprocessed_dir / rules.token_file_name(name)) for name in names]
    return Work([task.prefix for task in tasks], tasks, [])


def from_shards(merged: Work, c4_dir: Path, parts: Sequence[int], tokenizer_dir: Path, bad_line_limit: int = 0) -> Work:
    """The same token files, of which those of the training parts are made from their shards.

    `bad_line_limit`: bad lines that may be skipped in all shards of a part. Raises UserError where a shard is missing,
    or a part's token file is there that was made otherwise.
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
    """Of every N tasks the I-th alone, for "I/N"; all for an empty text. Raises UserError."""
    if not share:
        return tasks
    index, _, count = share.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--share={share}: not I/N with I from 0 to N - 1; example: 0/2")
    return tasks[int(index) :: int(count)]


def jobs_here(tasks: Sequence[Task]) -> int:
    """Files to tokenise at a time on this machine."""
    return max(1, min(len(tasks), cores() // CORES_PER_FILE))


def tokenize_all(tasks: Sequence[Task], tokenizer_dir: Path, jobs: int, threads: int, bad_line_limit: int = 0) -> None:
    """Tokenise the files, `jobs` at a time with so many threads each, skipping at most so many bad lines of each.

    What is done already is left alone: `tokenize` sees to that. Raises UserError with a line for each file that failed;
    its process has said why on stderr.
    """
    tokenizer_file(tokenizer_dir)
    skipping = ["--on-bad-line=skip", f"--bad-line-limit={bad_line_limit}"] if bad_line_limit else []
    with _ended_with_us() as processes:

        def run(task: Task) -> None:
            command = [sys.executable, "-m", "llama31", "tokenize", f"--input={task.source}"]
            command += [f"--output-prefix={task.prefix}", f"--tokenizer={tokenizer_dir}", f"--threads={threads}"]
            command += skipping
            with subprocess.Popen(command) as process:
                processes.add(process)
            processes.remove(process)
            if process.returncode:
                raise UserError(f"{task.source}: FAILED ({_ending(process.returncode)})")

        run_all(run, tasks, jobs)


def _ending(returncode: int) -> str:
    return f"exit code {returncode}" if returncode > 0 else f"killed by {signal.Signals(-returncode).name}"


@contextmanager
def _ended_with_us() -> Iterator[set["subprocess.Popen[bytes]"]]:
    """A set of processes that are ended when this one is told to end. (Ctrl-C reaches them by itself.)"""
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
    """Join the parts made from shards; gives a line that says what there is now.

    Raises UserError naming the files of which no whole token file is there; then nothing is joined.
    """
    undone = [f"{task.source}: not done: {problem}" for task in work.tasks if (problem := _problem(task.prefix))]
    if undone:
        raise UserError(undone)
    with Progress("join", sum(size(part.pieces) for part in work.parts if not part.is_joined)) as progress:
        run_all(lambda part: _join(part, progress), work.parts, jobs)
    found = [summary(prefix) for prefix in work.prefixes]
    documents, tokens = sum(file.documents for file in found), sum(file.tokens for file in found)
    return f"{len(found):,} token files done: {documents:,} documents, {tokens:,} tokens"


def _join(part: Part, progress: Progress) -> None:
    join(part.job, part.pieces, progress.add)
    remove(part.pieces)


def _problem(prefix: Path) -> str:
    """What keeps a token file from being whole; empty where it is."""
    try:
        summary(prefix)
    except UserError as error:
        return str(error)
    return ""
