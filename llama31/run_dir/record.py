"""Files of a run directory that say what ran and how it ended. Standard library and OmegaConf."""

import fcntl
import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import yaml
from omegaconf import OmegaConf

from llama31.common.errors import UserError
from llama31.common.files import atomic_writer, failures_named
from llama31.common.json_files import read_json
from llama31.config import paths
from llama31.config.resolve import from_dict
from llama31.run_dir.events import Outcome
from llama31.settings import Settings, to_dict

RESERVE = ".reserve"
SAVER = ".saver"
CLAIM = ".claim"
RESERVED_BYTES = 8192  # an outcome, and the entries of two names for it


def store_settings(run_dir: Path, settings: Settings) -> None:
    """Writes the settings of a run."""
    _write(run_dir / paths.SETTINGS, settings_text(settings))


def settings_text(settings: Settings) -> str:
    """What `store_settings` writes."""
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(settings)))


def load_settings(run_dir: Path) -> Settings:
    """Settings that `store_settings` wrote. Raises UserError where there are none, or no good ones."""
    file = run_dir / paths.SETTINGS
    if not file.is_file():
        raise UserError(f"{run_dir}: no run directory, it has no {paths.SETTINGS}")
    try:
        with failures_named(file):
            stored = yaml.load(file.read_bytes(), Loader=yaml.CSafeLoader)  # ten times as fast as OmegaConf's
        values = {str(name): value for name, value in stored.items()}
    except (ValueError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: damaged, these are no settings ({type(error).__name__})") from error
    try:
        return from_dict(values)
    except UserError as error:
        raise UserError(f"{file}: {line}" for line in error.lines) from error


def store_record(run_dir: Path, record: dict[str, Any]) -> None:
    """Writes what ran: versions, command, commit and so on."""
    _write(run_dir / paths.RECORD, record_text(record))


def load_record(run_dir: Path) -> dict[str, Any]:
    """What `store_record` wrote. Raises UserError where there is nothing of the kind."""
    file = run_dir / paths.RECORD
    try:
        with failures_named(file):
            content = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file}: damaged: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("environment", {}), dict):
        raise UserError(f"{file}: damaged: no record of a run")
    return content


def record_text(record: dict[str, Any]) -> str:
    """What `store_record` writes."""
    return json.dumps(record, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    with atomic_writer(path) as file:
        file.write(text.encode())


def reserve_outcome(run_dir: Path) -> None:
    """Takes the room that an outcome needs, so that a run can still say that the disk is full."""
    (run_dir / RESERVE).write_bytes(bytes(RESERVED_BYTES))


def store_saver(run_dir: Path) -> None:
    """Notes that this process can be told, by SIGUSR1, to have a checkpoint saved and to end the run."""
    (run_dir / SAVER).write_text(str(os.getpid()), encoding="utf-8")


def load_saver(run_dir: Path) -> int | None:
    """Id of the process that `store_saver` noted, None before it did."""
    file = run_dir / SAVER
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return int(text) if text else None


def store_outcome(run_dir: Path, outcome: Outcome) -> Outcome:
    """Writes how the run ended, unless another rank has already, and gives the outcome that holds.

    When one rank fails the others fail after it; what the first one says is the reason.
    """
    (run_dir / RESERVE).unlink(missing_ok=True)
    temporary = run_dir / f".{paths.OUTCOME}.{os.getpid()}"
    try:
        temporary.write_text(_outcome_text(outcome), encoding="utf-8")
        os.link(temporary, run_dir / paths.OUTCOME)
    except FileExistsError:
        return load_outcome(run_dir) or outcome
    finally:
        temporary.unlink(missing_ok=True)
    return outcome


def _outcome_text(outcome: Outcome) -> str:
    return json.dumps(asdict(outcome), indent=2) + "\n"


def replace_outcome(run_dir: Path, outcome: Outcome) -> None:
    """Writes how the run ended, by whoever knows more than the ranks did."""
    _write(run_dir / paths.OUTCOME, _outcome_text(outcome))


def load_outcome(run_dir: Path) -> Outcome | None:
    """How the run ended; None while it runs, or when it was killed before it could say.

    Raises UserError where the file is damaged.
    """
    file = run_dir / paths.OUTCOME
    return read_json(Outcome, file) if file.is_file() else None


def claim(run_dir: Path) -> TextIO:
    """A file that shows the run going on, while it is open in this process or in one that it was handed to."""
    held = (run_dir / CLAIM).open("w", encoding="utf-8")
    with suppress(OSError):  # a file system without locks
        fcntl.flock(held, fcntl.LOCK_EX)
    held.write(socket.gethostname())
    held.flush()
    return held


def is_claimed(run_dir: Path) -> bool | None:
    """Whether a process goes on with the run; None where that cannot be told.

    A lock that another machine holds is not seen on every file system.
    """
    try:
        with (run_dir / CLAIM).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False if file.read() == socket.gethostname() else None
    except BlockingIOError:
        return True
    except OSError:
        return None
