"""Checkpoints of others, changed in ways that fuzzing found: each is refused in one line, at once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llama31.checkpoint.formats import architecture, hugging_face, safetensors_header
from llama31.checkpoint.formats.dcp_metadata import Chunk
from llama31.checkpoint.formats.nemo import WEIGHTS, NemoCheckpoint
from llama31.checkpoint.store import MANIFEST, DamagedCheckpoint, read_manifest
from llama31.common.errors import UserError

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
    "intermediate_size": 160, "vocab_size": 512, "rms_norm_eps": 1e-5,
}  # fmt: skip
ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 2**40),
        ("num_hidden_layers", 10**30),
        ("head_dim", 2**40),
        ("vocab_size", 10**400),
        ("rms_norm_eps", 10**400),
        ("rms_norm_eps", float("nan")),
    ],
)
def test_numbers_that_no_model_has(field: str, value: Any) -> None:
    assert architecture.from_hugging_face(CONFIG, Path("config.json")).layers == 2
    with pytest.raises(UserError) as error:
        architecture.from_hugging_face({**CONFIG, field: value}, Path("config.json"))
    assert len(error.value.lines) == 1 and len(error.value.lines[0]) < 300


@pytest.mark.parametrize(
    "header",
    [
        {"a": {**ENTRY, "dtype": ["F32"]}},
        {"__metadata__": False, "a": ENTRY},
        {"__metadata__": {"x": 1}, "a": ENTRY},
        [],
    ],
)
def test_headers_of_safetensors(header: Any, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(UserError, match=r"^[^\n]*(header cannot be read|of type .*; supported)[^\n]*$"):
        safetensors_header.read_header(file)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_of_files_that_cannot_be(name: str, tmp_path: Path) -> None:
    (tmp_path / hugging_face.CONFIG).write_text(json.dumps(CONFIG))
    (tmp_path / hugging_face.INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match=r"^[^\n]*(File name too long|which is missing)[^\n]*$"):
        hugging_face.inspect(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_block_of_a_nemo_checkpoint(damage: str, tmp_path: Path) -> None:
    file = tmp_path / WEIGHTS / "__0_0.distcp"
    file.parent.mkdir()
    torch.save(torch.arange(100.0), file)
    content = file.read_bytes()
    chunk = Chunk((0,), (100,), file.name, 0, len(content))
    made = architecture.from_hugging_face(CONFIG, Path("config.json"))
    checkpoint = NemoCheckpoint(tmp_path, made, tmp_path, {})
    assert torch.equal(checkpoint._read(chunk), torch.arange(100.0))
    damaged = {"cut": content[:-100], "flipped": bytes(100) + content[100:], "empty": b""}
    file.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=r"^[^\n]*__0_0.distcp: cannot be read at byte 0: [^\n]*; get it again$"):
        checkpoint._read(chunk)


def test_a_manifest_with_a_name_that_cannot_be(tmp_path: Path) -> None:
    fields = {"seed": 1, "job": 0, "step": 8, "consumed_samples": 64, "identity": {}, "departures": [], "outcome": None}
    (tmp_path / MANIFEST).write_text(json.dumps({**fields, "files": {"a\0b": [1, "x"]}}))
    with pytest.raises(DamagedCheckpoint, match=r"is no file name"):
        read_manifest(tmp_path)
