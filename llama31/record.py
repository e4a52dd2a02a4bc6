"""Files of a run directory that say what ran and how it ended. Standard library and OmegaConf."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from llama31 import paths
from llama31.corpus.files import atomic_writer, failures_named
from llama31.errors import UserError
from llama31.events import Outcome
from llama31.resolve import from_dict
from llama31.settings import Settings, to_dict

RESERVE = ".reserve"
SAVER = ".saver"
RESERVED_BYTES = 8192  # an outcome, and the entries of two names for it


def store_settings(run_dir: Path, settings: Settings) -> None:
    """Writes the settings of a run."""
    _write(run_dir / paths.SETTINGS, settings_text(settings))


def settings_text(settings: Settings) -> str:
    """What `store_settings` writes."""
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(settings)))


def load_settings(run_dir: Path) -> Settings:
    """Settings that `store_settings` wrote."""
    file = run_dir / paths.SETTINGS
    if not file.is_file():
        raise UserError(f"{run_dir}: no run directory, it has no {paths.SETTINGS}")
    return from_dict({str(name): value for name, value in OmegaConf.load(file).items()})


def store_record(run_dir: Path, record: dict[str, Any]) -> None:
    """Writes what ran: versions, command, commit and so on."""
    _write(run_dir / paths.RECORD, record_text(record))


def load_record(run_dir: Path) -> dict[str, Any]:
    """What `store_record` wrote. Raises UserError where there is nothing of the kind."""
    file = run_dir / paths.RECORD
    try:
        with failures_named(file):
            return dict(json.loads(file.read_bytes()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: damaged: {error}") from error


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
        temporary.write_text(json.dumps(asdict(outcome), indent=2) + "\n", encoding="utf-8")
        os.link(temporary, run_dir / paths.OUTCOME)
    except FileExistsError:
        return load_outcome(run_dir) or outcome
    finally:
        temporary.unlink(missing_ok=True)
    return outcome


def load_outcome(run_dir: Path) -> Outcome | None:
    """How the run ended; None while it runs, or when it was killed before it could say."""
    file = run_dir / paths.OUTCOME
    return Outcome(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
