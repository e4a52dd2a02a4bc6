"""Settings -> a run: refuses what cannot work, shows the plan, makes the run directory and starts the ranks here."""

import contextlib
import importlib.metadata
import os
import platform
import random
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from llama31 import checks, paths, record, signals
from llama31.checkpoint import identity, resume, space, start, store
from llama31.corpus.files import failures_named
from llama31.errors import UserError
from llama31.events import ABORTED, FAILED, TARGET_NOT_REACHED, Outcome
from llama31.plan import Plan
from llama31.report import summary
from llama31.resolve import LIBRARIES, Resolved, read
from llama31.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "nemo_toolkit", "megatron-core", "lightning", "transformer_engine", "numpy", "mlperf-logging")
PATH_SETTINGS = (
    "job_dir",
    "preprocessed_path",
    "tokenizer_path",
    "tmp_npy_index",
    "model_ckpt",
    "continual_ckpt",
    "config_filename",
)


def main(arguments: Sequence[str]) -> int:
    """Runs, or with --dryrun shows, what the environment and the arguments ask for; gives the exit code."""
    given = [argument for argument in arguments if argument != "--dryrun"]
    assignments, allowed = _without_allowed_changes(given)
    resolved = with_absolute_paths(read(assignments, os.environ))
    data, lines = checks.look(resolved.settings)
    problems = [*resolved.problems, *(line for line in lines if not resolved.touched(line))]
    if problems or data is None:
        raise UserError(problems)
    is_dry = "--dryrun" in arguments
    if not is_dry and (missing := checks.missing_gpus(resolved.settings)):
        raise UserError(missing)
    found = resume.find(resolved.settings, data, identity.names_allowed(allowed), thorough=not is_dry)
    resolved = replace(resolved, settings=found.settings)
    plan = Plan(
        resolved, data, user_command(resolved.settings), command(resolved.settings, Path("RUN_DIR")), found.start
    )
    _tell(found.notes)
    if outcome := found.outcome or _nothing_left(plan):
        print(f"finished: {outcome.reason}, at step {outcome.step:,}; its last checkpoint: {found.start.checkpoint}")
        return outcome.exit_code
    if not is_dry and found.settings.save_ckpt and found.settings.seeds:
        store.lock(Path(found.settings.continual_ckpt), found.settings.seeds).close()
        _tell(found.clear())
    if resolved.settings.save_ckpt:
        space.check(resolved.settings, data)
    if is_dry:
        print(plan.text(), end="")
        return 0
    return run(plan, given)


def _tell(lines: Iterable[str]) -> None:
    """Prints lines that are no part of a plan."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def _nothing_left(plan: Plan) -> Outcome | None:
    """The outcome of a job whose steps were all done by jobs before it, None if there is something left to do."""
    last, reason = plan.start.last_step(plan.settings, plan.data.available_samples(plan.settings.seq_length))
    if not plan.start.goes_on or plan.start.step < last:
        return None
    why = f"the validation loss did not reach TARGET={plan.settings.target} in {reason}"
    return Outcome(ABORTED, why, TARGET_NOT_REACHED, plan.start.step, plan.start.consumed_samples)


def _without_allowed_changes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without each `--allow-change NAME`, and the names."""
    others, names = [], []
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, name = argument.partition("=")
        if option != "--allow-change":
            others.append(argument)
        elif not (name := name if equals else next(remaining, "")):
            raise UserError("--allow-change: name the setting that may change, such as --allow-change GBS")
        else:
            names.append(name)
    return others, names


def with_absolute_paths(resolved: Resolved) -> Resolved:
    """Paths as they are seen from anywhere; empty ones stay empty."""
    absolute: dict[str, Any] = {}
    for name in PATH_SETTINGS:
        if path := getattr(resolved.settings, name):
            # Not every shell replaces the ~ in NAME=~/directory.
            absolute[name] = str((Path.home() / path[2:] if path.startswith("~/") else Path(path)).absolute())
    return replace(resolved, settings=replace(resolved.settings, **absolute))


def user_command(settings: Settings) -> list[str]:
    """What a user types for this run, where no settings are in the environment."""
    given = [
        checks.assignment(field.name, value)
        for field in fields(Settings)
        if (value := getattr(settings, field.name)) != field.default
    ]
    return ["bash", str(REPOSITORY / "run_llama31.sh"), *given]


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


def run(plan: Plan, arguments: Sequence[str]) -> int:
    """Makes the run directory, starts the ranks, waits for them and says how it ended; gives the exit code.

    `arguments` are the user's, for the record.
    """
    seed = plan.settings.seeds.strip() or str(random.SystemRandom().randrange(2**31))
    settings = replace(plan.settings, seeds=seed)
    run_dir = make_run_dir(settings)
    ranks, ranks_environment = command(settings, run_dir), environment(settings)
    with failures_named(run_dir):
        record.reserve_outcome(run_dir)
        record.store_settings(run_dir, settings)
        start.store(run_dir / paths.START, plan.start)
        record.store_record(run_dir, describe(replace(plan.resolved, settings=settings), arguments, ranks))
        _name_latest(run_dir)
        print(plan.summary() + f"  seed {seed}\nrun directory: {run_dir}\n", flush=True)
        with (run_dir / paths.RANK_LOGS / "torchrun.log").open("wb") as errors:
            torchrun = subprocess.Popen(ranks, stderr=errors, env=ranks_environment, start_new_session=True)
            returncode = signals.wait(torchrun, run_dir)
        outcome = record.load_outcome(run_dir) or _killed(run_dir, returncode)
    print("\n".join(summary.lines(run_dir, settings, outcome)))
    return outcome.exit_code


def make_run_dir(settings: Settings) -> Path:
    """A new directory under JOB_DIR, named by tag, size, batch size, seed and time."""
    name = f"{settings.size}-gbs{settings.gbs}-seed{settings.seeds}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir = Path(settings.job_dir) / (f"{settings.tag}-{name}" if settings.tag else name)
    for attempt in range(1000):
        candidate = run_dir.with_name(f"{run_dir.name}-{attempt}") if attempt else run_dir
        try:
            candidate.mkdir(parents=True)
            (candidate / paths.RANK_LOGS).mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"JOB_DIR={settings.job_dir}: {candidate} cannot be made: {error.strerror}") from error
        return candidate
    raise UserError(f"JOB_DIR={settings.job_dir}: {run_dir} and a thousand like it exist; use another JOB_DIR")


def _name_latest(run_dir: Path) -> None:
    """JOB_DIR/latest is the newest run directory, where the file system has links."""
    link = run_dir.with_name("latest")
    partial = link.with_name(f".latest.{os.getpid()}")
    with contextlib.suppress(OSError):
        partial.symlink_to(run_dir.name)
        partial.replace(link)


def environment(settings: Settings) -> dict[str, str]:
    """Environment of the ranks: ours, with the threads of this machine's cores shared out among CPU ranks."""
    ours = dict(os.environ)
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), ours.get("PYTHONPATH"))))
    if checks.device(settings) is checks.Device.cpu:
        cores = len(os.sched_getaffinity(0))
        ours.setdefault("OMP_NUM_THREADS", str(max(1, cores // settings.gpus_per_node)))
        ours["CUDA_VISIBLE_DEVICES"] = ""
        # Megatron compiles a CUDA extension when it is imported. torch's CUDA build, finding no GPU to compile for,
        # then fails in a way that Megatron does not expect, unless an architecture is named.
        ours.setdefault("TORCH_CUDA_ARCH_LIST", "9.0")
    return ours


def describe(resolved: Resolved, arguments: Sequence[str], ranks: Sequence[str]) -> dict[str, Any]:
    """What runs, for the record: commands, where each setting came from, commit, versions, environment and machine."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    changes = _git("status", "--porcelain")
    read_by_libraries = {
        name: value for name, value in sorted(environment(resolved.settings).items()) if name.startswith(LIBRARIES)
    }
    return {
        "arguments": list(arguments),
        "repeated_by": shlex.join(user_command(resolved.settings)),
        "command": shlex.join(ranks),
        "origins": dict(resolved.origins),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "directory": str(Path.cwd()),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "environment": read_by_libraries,
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


def _killed(run_dir: Path, returncode: int) -> Outcome:
    """Outcome of a run whose ranks ended before they could say anything."""
    logs = run_dir / paths.RANK_LOGS
    reason = f"the ranks ended without a word (torchrun's exit code {returncode}); see {logs}"
    return record.store_outcome(run_dir, Outcome(ABORTED, reason, FAILED, 0, 0))
