"""Settings, record (run.json), outcome and lock of a run directory. Standard library and OmegaConf only."""

import contextlib
import math
import os
import socket
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf

from llama31.common.errors import UserError
from llama31.common.files import atomic_writer, failures_named, rename_if_first
from llama31.common.json_files import load_object, read_json_if_present, to_json, write_json
from llama31.common.locks import is_locked, lock_file
from llama31.common.yaml_files import parsed
from llama31.config import paths
from llama31.config.resolve import from_dict
from llama31.run_dir.events import Outcome
from llama31.settings import Settings, to_dict

RESERVE, RESERVED_NAME = ".reserve", ".reserved-name"
SAVER = ".saver"
CLAIM = ".claim"
RESERVED_BYTES = 8192  # an outcome, and the entries of two names for it


def store_settings(run_dir: Path, settings: Settings) -> None:
    """Write settings.yaml."""
    with atomic_writer(run_dir / paths.SETTINGS) as file:
        file.write(settings_text(settings).encode())


def settings_text(settings: Settings) -> str:
    """What `store_settings` writes."""
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(settings)))


def load_settings(run_dir: Path) -> Settings:
    """Read settings.yaml. Raises UserError if it is missing, damaged or holds invalid settings."""
    file = run_dir / paths.SETTINGS
    if not file.is_file():
        raise UserError(f"{run_dir}: no run directory, it has no {paths.SETTINGS}")
    try:
        with failures_named(file):
            stored = parsed(file.read_bytes())  # ten times faster than OmegaConf's loader
        values = {str(name): value for name, value in stored.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: damaged, these are no settings ({type(error).__name__})") from error
    try:
        return from_dict(values)
    except UserError as error:
        raise UserError(f"{file}: {line}" for line in error.lines) from error


def store_record(run_dir: Path, record: dict[str, Any]) -> None:
    """Write run.json: versions, command, commit and so on."""
    write_json(run_dir / paths.RECORD, record)


def load_record(run_dir: Path) -> dict[str, Any]:
    """Read run.json. Raises UserError if it is missing or damaged."""
    file = run_dir / paths.RECORD
    content = load_object(file)
    if not isinstance(content.get("environment", {}), dict):
        raise UserError(f"{file}: damaged (environment={content['environment']!r})")
    return content


def reserve_outcome(run_dir: Path) -> None:
    """Reserve disk space for the outcome, so that it can be written even when the disk is full.

    Also two inodes: on tmpfs, a second name needs one too.
    """
    (run_dir / RESERVE).write_bytes(bytes(RESERVED_BYTES))
    (run_dir / RESERVED_NAME).touch()


def store_saver(run_dir: Path) -> None:
    """Record this process as the one that saves a checkpoint and ends the run on SIGUSR1."""
    (run_dir / SAVER).write_text(str(os.getpid()), encoding="utf-8")


def load_saver(run_dir: Path) -> int | None:
    """Return the process id that `store_saver` recorded; None before that."""
    file = run_dir / SAVER
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return int(text) if text else None


def store_outcome(run_dir: Path, outcome: Outcome) -> Outcome:
    """Write outcome.json unless another rank already has; return the outcome that was written first.

    When one rank fails the others fail after it, so the first outcome has the reason.
    """
    for name in (RESERVE, RESERVED_NAME):
        with contextlib.suppress(OSError):  # there may be room without it
            (run_dir / name).unlink(missing_ok=True)
    temporary = run_dir / f".{paths.OUTCOME}.{os.getpid()}"
    try:
        temporary.write_text(to_json(outcome), encoding="utf-8")
        rename_if_first(temporary, run_dir / paths.OUTCOME)
    except FileExistsError:
        return load_outcome(run_dir) or outcome
    finally:
        temporary.unlink(missing_ok=True)
    return outcome


def replace_outcome(run_dir: Path, outcome: Outcome) -> None:
    """Overwrite outcome.json: the launcher may know more than the ranks."""
    write_json(run_dir / paths.OUTCOME, outcome)


def load_outcome(run_dir: Path) -> Outcome | None:
    """Read outcome.json; None while the run is running, or if it was killed before it could write it.

    Raises UserError if the file is damaged.
    """
    return read_json_if_present(Outcome, run_dir / paths.OUTCOME)


def claim(run_dir: Path) -> TextIO:
    """Lock the run directory; the run counts as running while the returned file is open in any process."""
    held = lock_file(run_dir / CLAIM, patience=math.inf)
    held.truncate()
    held.write(socket.gethostname())
    held.flush()
    return held


def is_claimed(run_dir: Path) -> bool | None:
    """Return whether a process holds the lock of `claim`; None if unknown: some file systems hide other machines'."""
    file = run_dir / CLAIM
    if (locked := is_locked(file)) is not False:
        return locked
    try:
        return False if file.read_text(encoding="utf-8") == socket.gethostname() else None
    except OSError:
        return None
