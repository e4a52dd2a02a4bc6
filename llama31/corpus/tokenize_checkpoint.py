"""How far the tokenising of a file has come, kept beside the unfinished output for when the run is killed."""

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
    """What was read of the inputs, and what of the output is on disk for good."""

    job: dict[str, Any]
    """What the output is made from, and how; another job can't go on from here."""
    encoder: str
    """Library that made the ids."""
    position: Position = START
    """Where reading goes on."""
    extent: Extent = EMPTY
    largest_id: int = -1
    skipped: Skipped = NOTHING_SKIPPED

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on from."""
        return self.extent != EMPTY


def checkpoint_path(prefix: Path) -> Path:
    """PREFIX.checkpoint.json, there while PREFIX is unfinished."""
    return prefix.with_name(f"{prefix.name}.checkpoint.json")


def store(prefix: Path, checkpoint: TokenizeCheckpoint) -> None:
    """Write the checkpoint of PREFIX. Raises UserError where it cannot be written."""
    write_json(checkpoint_path(prefix), checkpoint)


def load(prefix: Path) -> TokenizeCheckpoint | None:
    """The checkpoint of PREFIX; None where there is none, or one that cannot be understood."""
    try:
        return read_json(TokenizeCheckpoint, checkpoint_path(prefix))
    except UserError:
        return None


def discard(prefix: Path) -> None:
    """Remove the checkpoint of PREFIX, if there is one."""
    path = checkpoint_path(prefix)
    for file in (path, path.with_name(path.name + PARTIAL)):
        with failures_named(file):
            file.unlink(missing_ok=True)
