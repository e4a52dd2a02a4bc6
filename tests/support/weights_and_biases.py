"""Reads what Weights & Biases keeps of an offline run: records of protocol buffers in LevelDB's log format.

Format: https://github.com/google/leveldb/blob/main/doc/log_format.md, after a header of 7 bytes.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

HEADER = 7
BLOCK = 32768
LAST_PARTS = (1, 4)  # a whole record, and the last part of one


def history(run_dir: Path) -> list[dict[str, str]]:
    """Each row of figures that was logged, as name -> value in JSON."""
    return [
        {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        for record in _parsed(run_dir)
        if record.HasField("history")
    ]


def described(run_dir: Path) -> Any:
    """Return the run's own record: run_id, display_name and so on."""
    return next(record.run for record in _parsed(run_dir) if record.HasField("run"))


def _parsed(run_dir: Path) -> Iterator[Any]:
    (file,) = (run_dir / "wandb").glob("offline-run-*/*.wandb")
    for data in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record


def _records(content: bytes) -> Iterator[bytes]:
    place, record = HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # padding at the end of a block
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if kind == 0:  # filled up
            place += BLOCK - place % BLOCK
            continue
        record += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in LAST_PARTS:
            yield record
            record = b""
