"""Run directories: their names, what is written before the ranks start, and how a run ends."""

import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llama31.common.errors import UserError
from llama31.config import paths
from llama31.data import run_tokenizer
from llama31.launch import provenance
from llama31.plan.plan import Plan
from llama31.run_dir import hang, record, start_point, summary
from llama31.run_dir.events import ABORTED, FAILED, Outcome
from llama31.settings import Settings

EXCEPTION = re.compile(r"[\w.]*(Error|Exception): .")


def names(settings: Settings) -> list[str]:
    """Return names for a new run directory, from tag, size, batch size, seed and time; the first free one is used."""
    name = f"{settings.size}-gbs{settings.gbs}-seed{settings.seeds}-{time.strftime('%Y%m%d-%H%M%S')}"
    name = f"{settings.tag}-{name}" if settings.tag else name
    return [name, *(f"{name}-{attempt}" for attempt in range(1, 1000))]


def make(settings: Settings) -> Path:
    """Make a new directory under JOB_DIR. Raises UserError if it cannot be made."""
    for name in names(settings):
        run_dir = Path(settings.job_dir) / name
        try:
            run_dir.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"JOB_DIR={settings.job_dir}: {run_dir} cannot be created: {error.strerror}") from error
        return run_dir
    raise UserError(f"JOB_DIR={settings.job_dir}: {run_dir} and a thousand like it exist; use another JOB_DIR")


def begin(
    run_dir: Path, plan: Plan, arguments: Sequence[str], ranks: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Write everything that a run directory holds before the ranks start by the command `ranks` in `environment`."""
    (run_dir / paths.RANK_LOGS).mkdir(exist_ok=True)
    record.reserve_outcome(run_dir)
    record.store_settings(run_dir, plan.settings)
    run_tokenizer.ensure(plan.settings, run_dir)
    start_point.store(run_dir / paths.START, plan.start)
    record.store_record(run_dir, provenance.describe(plan, arguments, ranks, environment))
    name_latest(run_dir)


def end(
    run_dir: Path, settings: Settings, returncode: int, launcher: str, *, log: Path, out_of_memory: str = ""
) -> int:
    """Print the outcome of a run whose ranks have exited. Returns its exit code.

    `returncode` and `log` are those of the launcher of the ranks. A report that memory ran out explains a failure
    better than the ranks' own errors.
    """
    outcome = record.load_outcome(run_dir) or _killed(run_dir, returncode, launcher, log)
    if out_of_memory and outcome.exit_code == FAILED:
        outcome = replace(outcome, reason=f"out of memory: {out_of_memory}; {outcome.reason}")
        record.replace_outcome(run_dir, outcome)
    print("\n".join([*hang.report(run_dir), *summary.lines(run_dir, settings, outcome)]))
    return outcome.exit_code


def name_latest(run_dir: Path) -> None:
    """Point the link `latest`, beside a run directory, to it. Does nothing on a file system without links."""
    link = run_dir.with_name(paths.LATEST)
    partial = link.with_name(f".{paths.LATEST}.{os.getpid()}")
    with contextlib.suppress(OSError):
        partial.symlink_to(run_dir.name)
        partial.replace(link)


def _killed(run_dir: Path, returncode: int, launcher: str, log: Path) -> Outcome:
    """Store and return the outcome of a run whose ranks exited without recording one."""
    of_ranks = run_dir / paths.RANK_LOGS
    has_printed = any(file.stat().st_size for file in of_ranks.iterdir())
    see = of_ranks if has_printed else log if log.exists() else None
    reason = f"all ranks exited without recording an outcome ({launcher}'s exit code {returncode})"
    reason += f": {error}" if (error := _last_error(log)) else ""
    reason += f"; see {see}" if see else ""
    return record.store_outcome(run_dir, Outcome(ABORTED, reason, FAILED, 0, 0))


def _last_error(log: Path) -> str:
    """Return the last exception in the launcher's log, its own or of a rank that has no log; empty if there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(lines) if EXCEPTION.match(line)), "")
