"""Conversion between Hugging Face and NeMo: transformers and Megatron themselves read the results."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import llamas
import pytest
import ranks_of_converted
import torch
from checkout import FIXTURES, TESTS
from conversions import TIMEOUT, bits, logits, tensors
from llamas import KINDS
from transformers import AutoTokenizer, LlamaForCausalLM

from dev.support import forked_ranks
from llama31.checkpoint.convert import (
    convert,
    logits_of_megatron,
    logits_of_transformers,
    logits_parity,
    reference_config,
)
from llama31.checkpoint.formats import architecture, dcp_metadata, hugging_face, nemo, parameter_mapping, rope
from llama31.model.cpu_backend import one_rank

BY_TRANSFORMERS_5 = FIXTURES / "config_by_transformers_5.24.0.json"  # of the kind "3.1"
RUN_TIME = {
    "_attn_implementation": "flash_attention_2",
    "attn_implementation": "flash_attention_2",
    "return_dict": False,
    "output_attentions": True,
    "output_hidden_states": True,
    "use_cache": False,
    "torchscript": True,
    "pad_token_id": -1,
}
"""Fields of config.json that change how a model runs, not what it computes."""
LIMIT = 1e-4
pytestmark = pytest.mark.slow
every_kind = pytest.mark.parametrize("kind", KINDS)


# --- Round trip ---------------------------------------------------------------------------------------------------


@every_kind
def test_round_trip_is_equal_to_the_bit(kind: str, models: Path, back: Path) -> None:
    expected, found = tensors(models / kind), tensors(back / kind)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(bits(found[name]), bits(tensor)), name


@every_kind
def test_transformers_reads_the_result(kind: str, models: Path, back: Path, tokens: torch.Tensor) -> None:
    assert len(list((back / kind).glob("*.safetensors"))) > 1
    assert torch.equal(logits(back / kind, tokens), logits(models / kind, tokens))
    there, here = (LlamaForCausalLM.config_class.from_pretrained(path / kind).to_dict() for path in (models, back))
    assert {name for name in there if there[name] != here[name]} <= {"_name_or_path"}
    if KINDS[kind].tokenizer:
        assert (
            AutoTokenizer.from_pretrained(back / kind).get_vocab()
            == AutoTokenizer.from_pretrained(models / kind).get_vocab()
        )
    assert (back / kind / "generation_config.json").read_text() == (
        models / kind / "generation_config.json"
    ).read_text()


# --- What is written is Megatron's own ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(converted: Path, tokens: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with the logits of two ranks that loaded the checkpoints, and a checkpoint saved by Megatron."""
    output = tmp_path_factory.mktemp("loaded")
    torch.save(tokens, output / "tokens.pt")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = [
        TESTS / "support" / "ranks_of_converted.py",
        output / "tokens.pt",
        output,
        *(converted / name for name in KINDS),
    ]
    command = forked_ranks.instead_of_torchrun([*torchrun, *map(str, script)], forked_ranks.server())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return output


@every_kind
def test_one_rank_loads_it(kind: str, models: Path, converted: Path, tokens: torch.Tensor) -> None:
    with one_rank():
        model = ranks_of_converted.load(converted / kind, KINDS[kind].config["vocab_size"], torch.float32)
        found = ranks_of_converted.logits(model, tokens)
    expected = logits(models / kind, tokens)
    assert expected.std() > 0.1, "the test's models must have something to say"
    torch.testing.assert_close(found[..., : expected.shape[2]], expected, rtol=0, atol=LIMIT)


@pytest.mark.parametrize(
    ("kind", "layout"), [pair for pair in product(KINDS, ("tp", "pp")) if pair != (llamas.ONE_HEAD, "tp")]
)
def test_two_ranks_load_it(kind: str, layout: str, loaded: Path, models: Path, tokens: torch.Tensor) -> None:
    vocabulary = KINDS[kind].config["vocab_size"]
    found = torch.load(loaded / f"{kind} {layout}.pt")
    assert found.shape[2] % (128 * (2 if layout == "tp" else 1)) == 0
    assert not found[..., vocabulary:].any(), "padding has weights"
    torch.testing.assert_close(found[..., :vocabulary], logits(models / kind, tokens), rtol=0, atol=LIMIT)


def test_megatrons_own_save_has_the_same_tensors(loaded: Path, converted: Path) -> None:
    name, *_ = KINDS
    ours, own = (
        dcp_metadata.read(converted / name / "weights"),
        dcp_metadata.read(loaded / ranks_of_converted.OWN_SAVE / "weights"),
    )
    assert {key: (value.dtype, value.shape) for key, value in ours.items()} == {
        key: (value.dtype, value.shape) for key, value in own.items()
    }
    # Objects too: the empty extra states that Transformer Engine's layers ask for.
    assert objects(converted / name / "weights") == objects(loaded / ranks_of_converted.OWN_SAVE / "weights")


def objects(weights: Path) -> set[str]:
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    table = FileSystemReader(weights).read_metadata().state_dict_metadata
    return {key for key, value in table.items() if isinstance(value, BytesStorageMetadata)}


def test_shards_of_two_ranks_are_put_together(loaded: Path, converted: Path, models: Path, tmp_path: Path) -> None:
    name, *_ = KINDS
    shutil.copytree(loaded / ranks_of_converted.OWN_SAVE, tmp_path / "checkpoint")
    shutil.copytree(converted / name / "context", tmp_path / "checkpoint" / "context")
    assert convert.convert(tmp_path / "checkpoint", tmp_path / "back", "hf") == 0
    expected, found = tensors(models / name), tensors(tmp_path / "back")
    assert found.keys() == expected.keys()
    assert all(torch.equal(bits(found[name]), bits(expected[name])) for name in expected)


def test_nemo_reads_the_context(converted: Path, models: Path) -> None:
    from nemo.lightning import io

    for kind in KINDS:
        model = io.load_context(converted / kind, subpath="model")
        config = json.loads((models / kind / "config.json").read_text())
        assert model.config.num_query_groups == config["num_key_value_heads"]
        assert model.config.rotary_base == config["rope_theta"]
        assert model.config.layernorm_epsilon == config["rms_norm_eps"]
        assert getattr(model.config, "scale_factor", None) == (config["rope_scaling"] or {}).get("factor")
        assert model.config.params_dtype == KINDS[kind].dtype
        ids = model.config.vocab_size or model.tokenizer.vocab_size
        assert ids == config["vocab_size"]
        assert (model.config.vocab_size is None) == bool(KINDS[kind].tokenizer)


# --- Parity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 400_000.0},
        {"rope_scaling": None},
        {"rope_scaling": {**llamas.ROPE_SCALING, "factor": 4.0}},
        # Shows only between positions that are thousands of tokens apart.
        {"rope_scaling": {**llamas.ROPE_SCALING, "original_max_position_embeddings": 8193}},
        {"rms_norm_eps": 1e-4},
    ],
    ids=str,
)
def test_another_configuration_is_another_model(
    change: dict[str, Any], models: Path, converted: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "3.1", tmp_path / "source")
    llamas.edit_config(tmp_path / "source", **change)
    with one_rank():
        theirs, ours = hugging_face.inspect(tmp_path / "source"), nemo.inspect(converted / "3.1")
        found = logits_of_megatron.logits(ours, lambda _: None)
    expected = logits_of_transformers.logits(theirs, lambda _: None)
    assert not logits_parity.difference(found, expected).passes


@pytest.mark.parametrize(("context", "last"), [(40, 39), (64, 63), (65, 63), (2048, 2046), (131_072, 8190)])
def test_positions_are_distinct_and_within_the_context(context: int, last: int, models: Path) -> None:
    llama = replace(hugging_face.inspect(models / "3.1").architecture, max_position_embeddings=context)
    positions = logits_parity.positions(llama)
    assert positions.shape == logits_parity.tokens(llama)[0].shape
    assert (positions[0], positions[-1]) == (0, last)
    assert (positions.diff() > 0).all()


def test_a_source_saved_by_transformers_5(models: Path, tmp_path: Path, tokens: torch.Tensor) -> None:
    """With run-time options, and RoPE's frequencies as Llama 2's files hold them."""
    shutil.copytree(models / "3.1", tmp_path / "source")
    fields = json.loads(BY_TRANSFORMERS_5.read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps({**fields, **RUN_TIME}))
    frequencies = llamas.frequencies(16, {name: llamas.COMMON[name] for name in ("rope_theta", "rope_scaling")})
    llamas.add_tensors(
        tmp_path / "source",
        {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": frequencies for layer in range(4)},
    )
    assert convert.convert(tmp_path / "source", tmp_path / "nemo", "nemo") == 0
    assert convert.convert(tmp_path / "nemo", tmp_path / "back", "hf") == 0
    assert torch.equal(logits(tmp_path / "back", tokens), logits(models / "3.1", tokens))
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert written["rope_parameters"] == fields["rope_parameters"]
    assert architecture.from_hugging_face(written, tmp_path) == architecture.from_hugging_face(fields, tmp_path)
    assert not {"return_dict", "output_attentions", "attn_implementation", "_attn_implementation"} & written.keys()


def misread(*_: Any) -> rope.Rope:
    return rope.Rope(10_000.0, llamas.STRETCHED)


def without_scaling(read: Callable, *arguments: Any) -> architecture.Architecture:
    return replace(read(*arguments), rope_scaling=None)


def misread_by_the_reference(read: Callable, *arguments: Any) -> Any:
    config = read(*arguments)
    config.rope_theta = 10_000.0
    return config


@pytest.mark.parametrize(
    ("module", "name", "wrong", "to"),
    [
        (rope, "read", misread, "nemo"),
        (reference_config, "of_hugging_face", misread_by_the_reference, "nemo"),
        (architecture, "from_nemo", without_scaling, "hf"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_of_either_reader_shows(
    module: ModuleType,
    name: str,
    wrong: Callable,
    to: convert.Format,
    models: Path,
    converted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither side's model is built from what the other side's reader made of the file."""
    monkeypatch.setattr(module, name, wrong if wrong is misread else partial(wrong, getattr(module, name)))
    source = (converted if to == "hf" else models) / "3.1"
    assert convert.convert(source, tmp_path / "out", to) == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["out.partial"]


def swapped(key: str, tensors: list[torch.Tensor], *_: Any) -> torch.Tensor:
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]  # queries, keys and values not interleaved


def ones_for_norms(key: str, tensors: list[torch.Tensor], *rest: Any) -> torch.Tensor:
    return torch.ones_like(tensors[0]) if key.endswith("layer_norm_weight") else JOIN(key, tensors, *rest)


JOIN = parameter_mapping.join


@pytest.mark.parametrize("mistake", [swapped, ones_for_norms])
def test_a_wrong_conversion_does_not_get_the_name(
    mistake: Callable, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(parameter_mapping, "join", mistake)
    assert convert.convert(models / "3.1", tmp_path / "out", "nemo") == 1
    assert not (tmp_path / "out").exists()
    printed = capsys.readouterr()
    assert "largest difference" in printed.out
    assert f"stays in {tmp_path / 'out.partial'}" in printed.err


def test_a_parameter_that_is_not_mapped_is_named(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    less = {key: names for key, names in parameter_mapping.IN_EACH_LAYER.items() if key != "mlp.linear_fc2.weight"}
    monkeypatch.setattr(parameter_mapping, "IN_EACH_LAYER", less)
    with pytest.raises(ValueError, match=r"not mapped.*mlp\.linear_fc2\.weight"):
        convert.convert(models / "3.1", tmp_path / "out", "nemo")
    monkeypatch.undo()
    drop = {**parameter_mapping.IN_EACH_LAYER, parameter_mapping.FC1: ("mlp.gate_proj.weight", "mlp.gate_proj.weight")}
    monkeypatch.setattr(parameter_mapping, "IN_EACH_LAYER", drop)
    with pytest.raises(ValueError, match=r"not mapped.*mlp\.up_proj\.weight"):
        convert.convert(models / "3.1", tmp_path / "out", "nemo")
