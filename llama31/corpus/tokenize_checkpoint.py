"""Checkpoints of `tokenize`: the progress of an unfinished output, from which a killed run resumes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, failures_named
from llama31.common.json_files import read_json, write_json
from llama31.corpus.documents import START, Position
from llama31.corpus.records import NOTHING_SKIPPED, Skipped
from llama31.corpus.token_writer import EMPTY, Extent


@dataclass(frozen=True)
class TokenizeCheckpoint:
    """The position in the inputs, and the durable part of the output."""

    job: dict[str, Any]
    """TokenizeJob.identity; a job with another identity cannot resume from here."""
    encoder: str
    """Library that computed the ids."""
    position: Position = START
    """Position from which to resume reading."""
    extent: Extent = EMPTY
    largest_id: int = -1
    skipped: Skipped = NOTHING_SKIPPED

    @property
    def has_output(self) -> bool:
        """Whether any output has been written."""
        return self.extent != EMPTY


def checkpoint_path(prefix: Path) -> Path:
    """Return PREFIX.checkpoint.json, which exists while PREFIX is unfinished."""
    return prefix.with_name(f"{prefix.name}.checkpoint.json")


def store(prefix: Path, checkpoint: TokenizeCheckpoint) -> None:
    """Write the checkpoint of PREFIX. Raises UserError if that fails."""
    write_json(checkpoint_path(prefix), checkpoint)


def load(prefix: Path) -> TokenizeCheckpoint | None:
    """Return the checkpoint of PREFIX; None if it is missing or invalid."""
    try:
        return read_json(TokenizeCheckpoint, checkpoint_path(prefix))
    except UserError:
        return None


def discard(prefix: Path) -> None:
    """Remove the checkpoint of PREFIX, if it exists."""
    path = checkpoint_path(prefix)
    for file in (path, path.with_name(path.name + PARTIAL)):
        with failures_named(file):
            file.unlink(missing_ok=True)
