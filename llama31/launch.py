"""Settings -> a run: refuses what cannot work, shows the plan, makes the run directory and starts the ranks here."""

import contextlib
import importlib.metadata
import os
import platform
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from llama31 import checks, paths, record
from llama31.errors import UserError
from llama31.events import ABORTED, FAILED, Outcome
from llama31.plan import Plan
from llama31.resolve import Resolved, resolve
from llama31.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "nemo_toolkit", "megatron-core", "lightning", "transformer_engine", "numpy", "mlperf-logging")


def main(arguments: Sequence[str]) -> int:
    """Runs, or with --dryrun shows, what the environment and the arguments ask for; gives the exit code."""
    dryrun = "--dryrun" in arguments
    unknown = [argument for argument in arguments if argument.startswith("-") and argument != "--dryrun"]
    if unknown:
        raise UserError(f"{unknown[0]}: no such option; --dryrun shows the plan and runs nothing")
    resolved = resolve([argument for argument in arguments if argument != "--dryrun"], os.environ)
    resolved = with_absolute_paths(resolved)
    data = checks.check(resolved.settings)
    plan = Plan(resolved, data, command(resolved.settings, Path("RUN_DIR")))
    if dryrun:
        print(plan.text(), end="")
        return 0
    return run(plan)


def with_absolute_paths(resolved: Resolved) -> Resolved:
    """Paths as they are seen from anywhere; empty ones stay empty."""

    def absolute(path: str) -> str:
        return str(Path(path).absolute()) if path else ""

    settings = resolved.settings
    settings = replace(
        settings,
        job_dir=absolute(settings.job_dir),
        preprocessed_path=absolute(settings.preprocessed_path),
        tokenizer_path=absolute(settings.tokenizer_path),
        tmp_npy_index=absolute(settings.tmp_npy_index),
        config_filename=absolute(settings.config_filename),
    )
    return Resolved(settings, resolved.origins)


def command(settings: Settings, run_dir: Path) -> list[str]:
    """torchrun with one process for each rank of this machine."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={settings.gpus_per_node}",
        str(REPOSITORY / "pretrain_llama31.py"),
        str(run_dir),
    ]


def run(plan: Plan) -> int:
    """Makes the run directory, starts the ranks, waits for them and says how it ended; gives the exit code."""
    seed = plan.settings.seeds or str(random.SystemRandom().randrange(2**31))
    settings = replace(plan.settings, seeds=seed)
    run_dir = make_run_dir(settings)
    ranks = command(settings, run_dir)
    record.store_settings(run_dir, settings)
    record.store_record(run_dir, describe(ranks))
    print(plan.summary() + f"  seed {seed}\nrun directory: {run_dir}\n", flush=True)
    with (run_dir / paths.RANK_LOGS / "torchrun.log").open("wb") as errors:
        returncode = _wait(subprocess.Popen(ranks, stderr=errors, env=environment(settings), start_new_session=True))
    outcome = record.load_outcome(run_dir) or _killed(run_dir, returncode)
    print(f"{outcome.status}: {outcome.reason}")
    print(f"{outcome.step:,} steps, {outcome.consumed_samples:,} sequences; run directory: {run_dir}")
    return outcome.exit_code


def make_run_dir(settings: Settings) -> Path:
    """A new directory under JOB_DIR, named by tag, size, batch size, seed and time."""
    name = f"{settings.size}-gbs{settings.gbs}-seed{settings.seeds}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir = Path(settings.job_dir) / (f"{settings.tag}-{name}" if settings.tag else name)
    for attempt in range(1000):
        candidate = run_dir.with_name(f"{run_dir.name}-{attempt}") if attempt else run_dir
        try:
            (candidate / paths.RANK_LOGS).mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"JOB_DIR={settings.job_dir}: {candidate} cannot be made: {error.strerror}") from error
        return candidate
    raise UserError(f"JOB_DIR={settings.job_dir}: {run_dir} and a thousand like it exist; use another JOB_DIR")


def environment(settings: Settings) -> dict[str, str]:
    """Environment of the ranks: ours, with the threads of this machine's cores shared out among CPU ranks."""
    ours = dict(os.environ)
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), ours.get("PYTHONPATH"))))
    if checks.device(settings) is checks.Device.cpu:
        cores = len(os.sched_getaffinity(0))
        ours.setdefault("OMP_NUM_THREADS", str(max(1, cores // settings.gpus_per_node)))
        ours["CUDA_VISIBLE_DEVICES"] = ""
    return ours


def describe(ranks: Sequence[str]) -> dict[str, Any]:
    """What runs, for the record: command, commit, versions and machine."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "command": shlex.join(ranks),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _git(*arguments: str) -> str | None:
    """What git says of this checkout; None without git or outside of one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _wait(ranks: subprocess.Popen) -> int:
    """Waits for the ranks; Ctrl-C and SIGTERM are handed to them, so that they can close their logs."""

    def hand_on(signum: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            ranks.send_signal(signum)

    former = {signum: signal.signal(signum, hand_on) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        return ranks.wait()
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)


def _killed(run_dir: Path, returncode: int) -> Outcome:
    """Outcome of a run whose ranks ended before they could say anything."""
    logs = run_dir / paths.RANK_LOGS
    reason = f"the ranks ended without a word (torchrun's exit code {returncode}); see {logs}"
    return record.store_outcome(run_dir, Outcome(ABORTED, reason, FAILED, 0, 0))
