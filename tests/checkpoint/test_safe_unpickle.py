"""The table of contents of a checkpoint is data, or it is refused."""

import operator
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import FIXTURES
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, Metadata
from torch.distributed.checkpoint.planner import SavePlan, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save

from llama31.checkpoint.formats import dcp_metadata, pickle_memo
from llama31.checkpoint.formats.safe_unpickle import read_table
from llama31.common.errors import UserError

BY_PYTHON_3_11_2 = FIXTURES / "table_by_python_3.11.2.metadata"
"""Megatron's table of a tensor and an object, as saved under Debian 12's Python; names members of two Enums."""


class Runs:
    """Pickles as a call."""

    def __init__(self, *call: Any):
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        function, *arguments = self.call
        return function, tuple(arguments)


@pytest.mark.parametrize(
    "call",
    [(os.mknod, "executed"), (eval, "open('executed', 'w')"), (torch.load, "x"), (__import__, "os"), (exec, "1")],
    ids=lambda call: call[0].__name__,
)
def test_a_table_that_runs_something_is_refused(
    call: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / dcp_metadata.FILE).write_bytes(pickle.dumps(Runs(*call)))
    with pytest.raises(UserError, match=r"\.metadata: cannot be read as the table .*'names "):
        read_table(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"x", b"\x80\x04"])
def test_a_damaged_table_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / dcp_metadata.FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"^[^\n]*cannot be read as the table of a distributed checkpoint[^\n]*$"):
        read_table(tmp_path)


def test_a_missing_table_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.metadata: No such file or directory"):
        read_table(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.float8_e4m3fn])
def test_tables_that_torch_writes_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {"weight": torch.zeros(2, 3, dtype=dtype), "words": {"step": 3}}
    save(state, storage_writer=FileSystemWriter(tmp_path), no_dist=True)
    assert read_table(tmp_path).state_dict_metadata["weight"].size == (2, 3)


def test_a_table_written_by_python_3_11_2(tmp_path: Path) -> None:
    """Python 3.11 pickles an Enum member as getattr(class, name); both readers accept that, and torch agrees."""
    shutil.copyfile(BY_PYTHON_3_11_2, tmp_path / dcp_metadata.FILE)
    table = read_table(tmp_path)
    assert table.state_dict_metadata["weight"].size == (2, 3)
    assert dcp_metadata.read(tmp_path)["weight"].dtype == "bfloat16"
    assert len(table.all_local_plans) == 1
    by_torch = FileSystemReader(tmp_path).read_metadata()
    assert table.state_dict_metadata.keys() == by_torch.state_dict_metadata.keys()


def test_either_form_of_an_enum_member_is_read(tmp_path: Path) -> None:
    for call in ((getattr, WriteItemType, "SHARD"), (WriteItemType, WriteItemType.SHARD.value)):
        (tmp_path / dcp_metadata.FILE).write_bytes(pickle.dumps(Runs(*call)))
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ((getattr, WriteItemType, "__class__"), "getattr(WriteItemType, '__class__')"),
        ((getattr, WriteItemType, "mro"), "getattr(WriteItemType, 'mro')"),
        ((getattr, WriteItemType, "SHARD.value"), "getattr(WriteItemType, 'SHARD.value')"),
        ((getattr, WriteItemType, "SHARD", None), "getattr(WriteItemType, 'SHARD', None)"),
        ((getattr, WriteItemType), "getattr(WriteItemType)"),
        ((getattr, Metadata, "__init__"), "getattr(Metadata, '__init__')"),
        ((getattr, SavePlan, "items"), "getattr(SavePlan, 'items')"),
        ((getattr, getattr, "__self__"), "getattr(_EnumMember, '__self__')"),
        ((getattr, (), "count"), "getattr((), 'count')"),
        ((setattr, WriteItemType, "SHARD", 1), "setattr"),
        ((operator.attrgetter, "SHARD"), "attrgetter"),
    ],
    ids=str,
)
def test_nothing_else_comes_through_getattr(call: tuple[Any, ...], names: str, tmp_path: Path) -> None:
    (tmp_path / dcp_metadata.FILE).write_bytes(pickle.dumps(Runs(*call)))
    with pytest.raises(UserError) as error:
        read_table(tmp_path)
    assert names in str(error.value)


@pytest.mark.parametrize("opcode", [b"r" + (60_000_000).to_bytes(4, "little"), b"p60000000\n", b"px\n"], ids=str)
def test_a_table_that_would_take_much_memory(opcode: bytes, tmp_path: Path) -> None:
    """It numbers an object 60 million, for which Python's unpickler would make a list of a gigabyte."""
    (tmp_path / dcp_metadata.FILE).write_bytes(b"\x80\x04N" + opcode + b".")
    with pytest.raises(UserError, match=r"cannot be read as the table .*(numbers more objects|invalid literal)"):
        read_table(tmp_path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_pickle_writes_is_not_refused(protocol: int) -> None:
    value = [
        "x" * 300,
        b"y" * 70_000,
        {"a": (1, 2.5, None, True, -(2**70))},
        bytearray(b"z"),
        {1, 2},
        Path("/x"),
        "é\n",
    ]
    content = pickle.dumps([value, value, *range(300), *map(str, range(300))], protocol)
    pickle_memo.check(content)
    with pytest.raises(pickle.UnpicklingError, match="truncated"):
        pickle_memo.check(content[:-1])
