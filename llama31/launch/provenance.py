"""Describe a run for run.json; print the command that replays it, and what has changed since."""

import os
import platform
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama31.checkpoint import identity
from llama31.config import devices, paths
from llama31.config.environment import read_by_libraries, to_forward
from llama31.data import inputs, run_tokenizer
from llama31.launch import rank_command
from llama31.plan import rank_checks
from llama31.plan.plan import Plan, user_command
from llama31.run_dir import record, start_point


def describe(
    plan: Plan, arguments: Sequence[str], ranks_command: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of run.json: commands, origin of each setting, code, data, environment and machine.

    `arguments` are the user's. Of the environment of the ranks, the variables that libraries read are recorded.
    """
    return {
        "arguments": list(arguments),
        "repeated_by": shlex.join(user_command(plan.settings)),
        "command": shlex.join(ranks_command),
        "origins": dict(plan.resolved.origins),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "directory": str(Path.cwd()),
        "host": socket.gethostname(),
        **_code(),
        "device": devices.device(plan.settings).name,
        "data": rank_checks.fingerprint(plan.settings, plan.data) if plan.data else None,
        "skipped_parts": list(inputs.skipped_lines(plan.settings, plan.data)) if plan.data else None,
        "tokenizer": run_tokenizer.describe(plan.settings) if plan.data else None,
        "environment": read_by_libraries(environment),
    }


def replay(run_dir: Path, more: Sequence[str] = ()) -> Iterator[str]:
    """Yield the command that replays a run, with `more` settings, then differences. Raises UserError without a run."""
    run_dir = paths.latest_run(run_dir)
    settings, was = record.load_settings(run_dir), record.load_record(run_dir)
    data, _ = inputs.inspect(settings)
    now = {**_code(), "data": rank_checks.fingerprint(settings, data) if data else None}
    if now["data"] and isinstance(recorded := was.get("data"), dict):
        recorded["tokenizer"] = identity.current_tokenizer_hash(recorded.get("tokenizer"), settings)
    theirs = to_forward(was.get("environment", {}))
    ours = to_forward(rank_command.environment(settings, os.environ))
    changed = [f"{name}={value}" for name, value in theirs.items() if ours.get(name) != value]
    unset = [word for name in ours.keys() - theirs.keys() for word in ("-u", name)]
    prefix = ["env", *unset, *changed] if unset or changed else []
    yield shlex.join([*prefix, *user_command(settings, os.environ), *more])
    yield from (f"was set to: {pair}" for pair in changed)
    yield from (f"was not set: {name}={ours[name]}" for name in unset[1::2])
    for name, value in now.items():
        yield from _differences(name, was.get(name), value)
    start = start_point.load(run_dir / paths.START)
    if start.resumes:
        yield f"it resumed from {start.checkpoint}: to reproduce the run from its start, replay all jobs of its chain"


def _differences(name: str, was: Any, now: Any) -> Iterator[str]:
    """Yield a line for each part of a fact that differs."""
    if isinstance(was, dict) and isinstance(now, dict):
        for part in sorted({*was, *now}):
            yield from _differences(f"{name} {part}", was.get(part), now.get(part))
    elif was != now:
        yield f"{name.replace('_', ' ')}: was {_words(was)}, is {_words(now)}"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "recorded"
    return "not there" if value is None else str(value)


def _code() -> dict[str, Any]:
    """Return commit, Python, packages and system of this process."""
    changes = _git("status", "--porcelain")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": rank_checks.versions(),
    }


def _git(*arguments: str) -> str | None:
    """Return git's answer about this checkout, or None without git or outside a checkout."""
    if not paths.is_checkout():  # git would answer for a repository that an installed package is in by chance
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(paths.REPOSITORY), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
