"""Disk space for checkpoints."""

from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import free_bytes, is_writable_directory, nearest_existing
from llama31.common.units import size
from llama31.data.inputs import Data
from llama31.estimates import disk
from llama31.settings import Settings

FIXED_BYTES = 2_000_000  # headers of tensors, table of contents, `context`


def estimate(settings: Settings, data: Data) -> int:
    """Return the approximate size of one checkpoint, bytes, without padding of the vocabulary."""
    return disk.checkpoint(settings, data.vocab_size) + FIXED_BYTES


def check(settings: Settings, data: Data, runs: int = 1) -> None:
    """Raise UserError if CONTINUAL_CKPT is not writable or lacks space for the next checkpoint of each run."""
    root = Path(settings.continual_ckpt)
    needs = runs * estimate(settings, data)
    try:
        existing = nearest_existing(root)
        free = free_bytes(existing)
    except OSError as error:
        raise UserError(f"CONTINUAL_CKPT={root}: {error.strerror}") from error
    if not is_writable_directory(existing):
        raise UserError(f"CONTINUAL_CKPT={root}: not writable; choose another directory")
    if free < needs:
        checkpoints = f"the next checkpoints of {runs} experiments need" if runs > 1 else "the next checkpoint needs"
        raise UserError(f"CONTINUAL_CKPT={root}: {checkpoints} about {size(needs)}, the disk has {size(free)} free")
