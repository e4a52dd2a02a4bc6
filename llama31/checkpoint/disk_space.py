"""How much room a checkpoint takes, and whether the disk has it."""

import shutil
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import is_writable_directory, nearest_existing
from llama31.common.units import size
from llama31.data.inputs import Data
from llama31.estimates import disk
from llama31.settings import Settings

FIXED_BYTES = 2_000_000  # headers of tensors, table of contents, `context`


def estimate(settings: Settings, data: Data) -> int:
    """Bytes of one checkpoint: its tensors, and a little more.

    Padding of the vocabulary is left out: it is at most 128 x TENSOR_PARALLEL_SIZE rows of each embedding.
    """
    return disk.checkpoint(settings, data.vocab_size) + FIXED_BYTES


def check(settings: Settings, data: Data, runs: int = 1) -> None:
    """Raises UserError if CONTINUAL_CKPT cannot be written to, or has not the room for the next save of each run."""
    root = Path(settings.continual_ckpt)
    needs = runs * estimate(settings, data)
    try:
        there = nearest_existing(root)
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise UserError(f"CONTINUAL_CKPT={root}: {error.strerror}") from error
    if not is_writable_directory(there):
        raise UserError(f"CONTINUAL_CKPT={root}: cannot be written to; name a directory that can")
    if free < needs:
        what = f"the next checkpoints of {runs} experiments take" if runs > 1 else "the next checkpoint takes"
        raise UserError(f"CONTINUAL_CKPT={root}: {what} about {size(needs)}, the disk has {size(free)} free")
