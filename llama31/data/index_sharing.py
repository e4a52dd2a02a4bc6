"""The training index on all nodes: rank 0 builds it, and sends it to nodes whose own disk lacks it. Collective."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from llama31.common import rank_messages
from llama31.common.errors import UserError
from llama31.common.file_systems import is_on_own_disk
from llama31.common.json_files import from_json, write_json
from llama31.data import index
from llama31.data.index import Index, IndexContents

PIECE = 64 << 20  # bytes sent at a time


def ensure(wanted: Index | None) -> tuple[Path, tuple[str, ...]]:
    """Return the directory of the index, complete on this node, and the parts that it covers, once all ranks called it.

    Rank 0 gives the index, the others None: they may see other modification times of the data, which can be part of
    its name. A node whose directory is on a disk of its own gets the files from rank 0, checked by SHA-256; on any
    other file system it waits for them. Raises UserError if an index cannot be built, written or seen.
    """
    is_first = torch.distributed.get_rank() == 0
    agreed: Any = None
    if is_first:
        assert wanted
        contents, _ = index.ensure(wanted)
        agreed = (str(wanted.directory), wanted.prefixes, asdict(contents))
    path, prefixes, fields = rank_messages.broadcast(agreed)
    directory, contents = Path(path), from_json(IndexContents, fields)
    receives = not is_first and os.environ.get("LOCAL_RANK") == "0" and _is_missing_here(directory, contents)
    if any(rank_messages.all_gather(receives)):
        _send(directory, contents, receives=receives)
    index.wait_for(directory)
    return directory, tuple(prefixes)


def _is_missing_here(directory: Path, contents: IndexContents) -> bool:
    """Return whether this node needs its own copy. A damaged one is renamed."""
    if is_on_own_disk(directory):
        with suppress(OSError):
            return not index.is_intact(directory, contents)
        return True
    return False


def _send(directory: Path, contents: IndexContents, *, receives: bool) -> None:
    """Send the files of the index from rank 0 to all ranks; those that receive it write it."""
    if not receives:
        for name, start in _pieces(contents):
            _broadcast(directory / name if torch.distributed.get_rank() == 0 else None, start)
        return
    with index.building(directory) as partial:
        for name, start in _pieces(contents):
            with open(partial / name, "ab") as file:
                file.write(_broadcast(None, start))
        write_json(partial / index.CONTENTS, contents)
        if damage := index.damage(partial, contents):
            raise UserError(f"{directory}: {damage}, on {os.uname().nodename}; set TMP_NPY_INDEX to another directory")
    print(f"{directory}: received from the first node, {contents.bytes:,} bytes", flush=True)


def _pieces(contents: IndexContents) -> Iterator[tuple[str, int]]:
    """Yield file and offset of each piece; an empty file has one too."""
    for name, (size, _) in sorted(contents.files.items()):
        yield from ((name, start) for start in range(0, max(size, 1), PIECE))


def _broadcast(file: Path | None, start: int) -> bytes:
    """Return a piece, which rank 0 reads from `file`."""
    piece = b""
    if file:
        with open(file, "rb") as opened:
            piece = os.pread(opened.fileno(), PIECE, start)
    return rank_messages.broadcast_bytes(piece)
