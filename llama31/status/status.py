"""`python3 -m llama31 status`: a table of the runs in a directory: job, state, progress and time left."""

import math
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from llama31 import rules
from llama31.common.errors import UserError, line_of
from llama31.common.files import failures_named, real_path
from llama31.common.json_files import parsed
from llama31.common.printable import printable
from llama31.common.units import duration
from llama31.config import paths
from llama31.launch.slurm import job_states
from llama31.run_dir import job_chain, record, start_point
from llama31.run_dir.job_chain import Submission
from llama31.settings import Settings
from llama31.status import latest_step, run_state
from llama31.status.latest_step import Recent
from llama31.status.run_state import ChainJob

RUN_FILES = (paths.SETTINGS, paths.SUBMISSION, paths.SCRIPT, paths.RANK_LOGS)
"""A run directory contains at least one of these from its creation on."""
LOG_HEAD = 64 << 10  # bytes of an MLPerf log that contain the description of the run
INDENT = "    "
HEADER = ("step", "sequences", "loss", "validation", "tokens / s", "time left")


@dataclass(frozen=True)
class Row:
    """Text of one run in the table."""

    text: str
    """Its name, its current job, and its state."""
    figures: Sequence[str] = ()
    """The columns of HEADER; losses are in nats per token, tokens per second are those of the last steps."""
    is_damaged: bool = False
    """Whether files of the run cannot be read."""


def status(directories: Iterable[Path], out: TextIO) -> int:
    """Print the table, as wide as the terminal. Returns the exit code, 1 if files of a run cannot be read.

    Raises UserError if an argument is not a directory.
    """
    rows, notes = collect(directories)
    if not rows:
        notes.append("no runs yet")
    width = shutil.get_terminal_size().columns if out.isatty() else None
    table = [Row("", HEADER), *rows] if rows else []
    widths = [max(map(len, column)) for column in zip(*(row.figures for row in table if row.figures), strict=True)]
    for row in table:
        _print(row.text, out, width)
        cells = (figure.rjust(wide) for figure, wide in zip(row.figures, widths, strict=False))
        _print(INDENT + "  ".join(cells), out, None)
    for note in notes:
        _print(note, out, width)
    return int(any(row.is_damaged for row in rows))


def _print(text: str, out: TextIO, width: int | None) -> None:
    """Print a text unless it is blank, in lines of `width` columns. Paths are kept whole for copying."""
    text = printable(text)
    lines = [text.rstrip()]
    if width is not None:
        lines = textwrap.wrap(text, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)
    for line in filter(None, lines):
        print(line, file=out)


def collect(directories: Iterable[Path]) -> tuple[list[Row], list[str]]:
    """Return a row for each run in the directories, the newest last, and a note for each Slurm that does not answer."""
    run_dirs = sorted({run for directory in directories for run in run_dirs_of(directory)}, key=_created)
    submissions: dict[Path, Submission | UserError | None] = {}
    for run_dir in run_dirs:
        try:
            found = job_chain.load(run_dir)
            submissions[run_dir] = replace(found, jobs=job_chain.chain(run_dir, found)) if found else None
        except UserError as error:
            submissions[run_dir] = error
    chains, notes = _chains({run: one for run, one in submissions.items() if isinstance(one, Submission)})
    return [_row(run_dir, one, chains.get(run_dir, [])) for run_dir, one in submissions.items()], notes


def run_dirs_of(directory: Path) -> list[Path]:
    """Return the directory if it is a run's, else the run directories in it. Raises UserError if it is no directory."""
    with failures_named(directory):
        if not directory.is_dir():
            raise UserError(f"{directory}: no such directory; name a JOB_DIR or a run directory")
        directory = real_path(directory)
        if _is_run(directory):
            return [directory]
        return [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink() and _is_run(path)]


def _is_run(directory: Path) -> bool:
    return any((directory / name).exists() for name in RUN_FILES)


def _created(run_dir: Path) -> tuple[float, str]:
    """Return the time of creation, that of the settings, which are written once, and the name."""
    file = run_dir / paths.SETTINGS
    return (file if file.exists() else run_dir).stat().st_mtime, run_dir.name


def _chains(submissions: dict[Path, Submission]) -> tuple[dict[Path, list[ChainJob]], list[str]]:
    """Query each Slurm once for the jobs of all its runs; return them by run, and why a Slurm did not answer."""
    chains: dict[Path, list[ChainJob]] = {}
    notes: list[str] = []
    for destination in sorted({one.destination for one in submissions.values()}):
        of_it = {run_dir: one.jobs for run_dir, one in submissions.items() if one.destination == destination}
        try:
            known = dict(job_states.states([job for jobs in of_it.values() for job in jobs], destination))
        except UserError as error:
            known = {}
            notes += error.lines
        chains |= {run_dir: [ChainJob(job, known.get(job)) for job in jobs] for run_dir, jobs in of_it.items()}
    return chains, notes


def _row(run_dir: Path, submitted: Submission | UserError | None, chain: Sequence[ChainJob]) -> Row:
    try:
        if isinstance(submitted, UserError):
            raise submitted
        settings = record.load_settings(run_dir)
        job_dirs = job_chain.started_dirs(run_dir) if submitted else [run_dir]
        progress = [
            (job_dir, found) for job_dir in reversed(job_dirs) if (found := latest_step.read(job_dir / paths.METRICS))
        ]
        job_dir, now = progress[0] if progress else (run_dir, None)
        has_steps = now is not None and job_dir == job_dirs[-1]
        if submitted:
            state = run_state.of_chain(run_dir, chain, job_dirs, has_steps=has_steps, submitted=submitted)
        else:
            state = run_state.of_local(run_dir, has_steps=has_steps)
        texts = [run_dir.name, *([run_state.job_text(chain)] if chain else []), state]
        is_running = state == run_state.RUNNING
        if now is None:
            return Row("  ".join(texts))
        if is_running:
            texts[-1] += f", last step {duration(now.age)} ago"
            if now.ranks and (slow := now.ranks.lagging()):
                texts.append(f"slow: {', '.join(slow)} the median rank")
        last = _last_step(settings, job_dir)
    except UserError as error:
        return Row(f"{run_dir.name}  damaged: {'; '.join(error.lines)}", is_damaged=True)
    except OSError as error:  # a file server that answers late, or not at all
        return Row(f"{run_dir.name}  damaged: {line_of(error)}", is_damaged=True)
    figures = (
        f"{now.last_step.step:,}" + (f"/{last:,}" if last else ""),
        f"{now.last_step.consumed_samples:,}",
        f"{now.last_step.loss:.4f}",
        f"{now.evaluation.loss:.4f}" if now.evaluation else "-",
        f"{settings.gbs * settings.seq_length / now.step_seconds:,.0f}",
        _left(settings, now, last) if is_running else "",
    )
    return Row("  ".join(texts), figures)


def _last_step(settings: Settings, run_dir: Path) -> int | None:
    """Return the last optimizer step that the run can take; `run_dir` is that of one of its jobs."""
    available = _train_samples(run_dir / paths.MLPERF_LOG)
    return None if available is None else start_point.load(run_dir / paths.START).last_step(settings, available)[0]


def _train_samples(log: Path) -> int | None:
    """Return the training sequences in the data, from the head of the run's log: the data may not be visible here."""
    if not log.is_file():
        return None
    with failures_named(log), log.open("rb") as file:
        head = file.read(LOG_HEAD)
    for line in head.splitlines():
        if b'"key": "train_samples"' in line:
            try:
                return int(parsed(line[line.index(b"{") :])["value"])
            except (ValueError, KeyError, TypeError, ArithmeticError) as error:
                raise UserError(f"{log}: damaged: train_samples is not a number") from error
    return None


def _left(settings: Settings, now: Recent, last: int | None) -> str:
    """Return the time to the end, or to the samples that the reference needs with this batch size, if that is less."""
    point = rules.reference_point(settings.size, settings.gbs)
    reference = math.ceil(point.mean / settings.gbs) if point else 0
    done = now.last_step.step
    ends = [(step, what) for step, what in ((last or 0, "end"), (reference, "reference")) if step > done]
    if not ends:
        return ""
    step, what = min(ends)
    interval = rules.steps_between_evaluations(settings.eval_every, settings.gbs)
    evaluations = step // interval - done // interval
    seconds = (step - done) * now.step_seconds + evaluations * (now.evaluation.seconds if now.evaluation else 0)
    return f"{duration(seconds)} to {what}"
