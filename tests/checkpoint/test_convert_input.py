"""Input that `convert` refuses: one line per mistake, before torch is imported, without leaving files."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import llamas
import pytest
import torch
from refused_conversions import refusal
from safetensors.torch import load_file, save_file

from llama31.checkpoint.convert import convert
from llama31.checkpoint.formats import hugging_face
from llama31.common.errors import UserError

SHARD = "model-00002-of-00006.safetensors"


@pytest.fixture
def source(model: Path, tmp_path: Path) -> Iterator[Path]:
    """Yield a copy to damage; at the end, check that nothing was created beside it."""
    shutil.copytree(model, tmp_path / "source")
    yield tmp_path / "source"
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# --- Hugging Face -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model_type", "mistral", "model_type is mistral; a Llama has llama"),
        ("model_type", None, "model_type is missing; a Llama's configuration has it"),
        ("hidden_act", "gelu", "hidden_act is gelu; a Llama has silu"),
        ("attention_bias", True, "attention_bias is True; a Llama's layers have no bias"),
        ("mlp_bias", True, "mlp_bias is True; a Llama's layers have no bias"),
        ("quantization_config", {"bits": 4}, "quantization_config is {'bits': 4}; quantized weights cannot be"),
        (
            "rope_scaling",
            {"rope_type": "yarn", "factor": 4.0},
            "rope_scaling.rope_type is yarn; supported:",
        ),
        ("rope_scaling", {"rope_type": "llama3"}, "rope_scaling.factor is missing"),
        ("num_hidden_layers", "4", "num_hidden_layers is 4; it must be a whole number, 1 or more"),
        ("num_key_value_heads", 3, "4 attention heads cannot share 3 key-value heads evenly"),
        ("rms_norm_eps", -1, "rms_norm_eps is -1; it must be a number above 0"),
        ("rms_norm_eps", None, "rms_norm_eps is missing; a Llama's configuration has it"),
    ],
)
def test_configurations_that_are_no_llama(field: str, value: object, says: str, source: Path, tmp_path: Path) -> None:
    llamas.edit_config(source, **{field: value})
    (line,) = refusal(source, tmp_path / "out")
    assert line.startswith(f"{source / 'config.json'}: {says}")


def no_config(source: Path) -> str:
    (source / "config.json").unlink()
    return f"{source / 'config.json'}: No such file or directory"


def config_is_not_json(source: Path) -> str:
    (source / "config.json").write_text("{")
    return f"{source / 'config.json'}: not JSON: "


def missing_shard(source: Path) -> str:
    (source / SHARD).unlink()
    return f"{source / hugging_face.INDEX}: names {SHARD}, which is missing; download it again"


def index_names_another_file(source: Path) -> str:
    index = source / hugging_face.INDEX
    index.write_text(index.read_text().replace(SHARD, "model-00007-of-00006.safetensors"))
    return f"{index}: names model-00007-of-00006.safetensors, which is missing"


def index_leaves_the_directory(source: Path) -> str:
    index = source / hugging_face.INDEX
    index.write_text(index.read_text().replace(SHARD, f"../{SHARD}"))
    return f"{index}: "


def no_index(source: Path) -> str:
    (source / hugging_face.INDEX).unlink()
    return f"{source}: holds model-00001-of-00006.safetensors, but no {hugging_face.INDEX}"


def pickled_weights(source: Path) -> str:
    for file in source.glob("*.safetensors*"):
        file.unlink()
    (source / "pytorch_model.bin").write_bytes(b"")
    missing = f"holds no model.safetensors and no {hugging_face.INDEX}"
    return f"{source}: {missing}; download the complete checkpoint as safetensors"


def truncated(source: Path) -> str:
    content = (source / SHARD).read_bytes()
    (source / SHARD).write_bytes(content[:-1])
    return f"{source / SHARD}: truncated: {len(content) - 1:,} bytes of {len(content):,}; download it again"


def truncated_in_the_header(source: Path) -> str:
    (source / SHARD).write_bytes((source / SHARD).read_bytes()[:20])
    return f"{source / SHARD}: truncated or not a safetensors file: 20 bytes are too few for its header"


def empty(source: Path) -> str:
    (source / SHARD).write_bytes(b"")
    return f"{source / SHARD}: truncated or not a safetensors file: 0 bytes"


def header_is_no_json(source: Path) -> str:
    content = bytearray((source / SHARD).read_bytes())
    content[8:10] = b"[["
    (source / SHARD).write_bytes(content)
    return f"{source / SHARD}: not a safetensors file: its header cannot be read"


def header_with_another_size(source: Path) -> str:
    content = (source / SHARD).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    first = min((entry for name, entry in header.items() if name != "__metadata__"), key=lambda of: of["data_offsets"])
    first["data_offsets"][0] = 2
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    (source / SHARD).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return f"{source / SHARD}: not a safetensors file: its header cannot be read"


def other_shape(source: Path) -> str:
    return change(
        source, "model.norm.weight", torch.ones(63, dtype=torch.bfloat16), "has shape [63]; config.json requires"
    )


def other_type(source: Path) -> str:
    change(source, "model.norm.weight", torch.ones(64, dtype=torch.float64), "")
    (file,) = (file for file in source.glob("*.safetensors") if "model.norm.weight" in load_file(file))
    return f"{file}: model.norm.weight of type F64; supported: BF16, F16, F32"


def mixed_types(source: Path) -> str:
    name = "model.layers.2.mlp.up_proj.weight"
    change(source, name, torch.ones(160, 64), "")
    return f"{source}: model.layers.0.mlp.gate_proj.weight is bfloat16, {name} is float32; Megatron keeps both in one"


def missing_tensor(source: Path) -> str:
    llamas.edit_config(source, num_hidden_layers=5)
    return f"{source}: holds no model.layers.4.input_layernorm.weight, model.layers.4.self_attn.q_proj.weight, "


def tensor_too_many(source: Path) -> str:
    llamas.edit_config(source, tie_word_embeddings=True)
    return change(
        source, "lm_head.weight", torch.ones(512, 64), "is not model.embed_tokens.weight, although config.json"
    )


def tensor_in_another_file(source: Path) -> str:
    index = json.loads((source / hugging_face.INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = SHARD
    (source / hugging_face.INDEX).write_text(json.dumps(index))
    return f"{source / hugging_face.INDEX}: lists model.norm.weight, which {SHARD} does not hold"


def change(source: Path, name: str, tensor: torch.Tensor, says: str) -> str:
    """Replace a tensor; return the error line that names its file."""
    for file in source.glob("*.safetensors"):
        tensors = load_file(file)
        if name in tensors:
            save_file({**tensors, name: tensor}, file, metadata={"format": "pt"})
            return f"{file}: {name} {says}"
    raise AssertionError(name)


@pytest.mark.slow
def test_code_of_a_tokenizer_is_not_run(source: Path, tmp_path: Path) -> None:
    tokenizer = source / "tokenizer_config.json"
    described = {"tokenizer_class": "Strange", "auto_map": {"AutoTokenizer": ["strange.Strange", None]}}
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), **described}))
    (source / "strange.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Strange: pass\n")
    assert convert.convert(source, tmp_path / "out", "nemo") == 0
    assert not (tmp_path / "executed").exists()
    assert "auto_map" not in (tmp_path / "out" / "context" / "tokenizer" / "tokenizer_config.json").read_text()
    shutil.rmtree(tmp_path / "out")


def broken_tokenizer(source: Path) -> str:
    (source / "tokenizer.json").write_text("{}")
    return f"{source / 'tokenizer.json'}: not of the format of Hugging Face's tokenizers library"


def token_without_an_id(source: Path) -> str:
    described = {"eos_token": "<|none|>"}
    (source / "tokenizer_config.json").write_text(json.dumps(described))
    return f"{source / 'tokenizer_config.json'}: names '<|none|>' as a special token, which is not among"


def tokenizer_of_a_later_library(source: Path) -> str:
    file = source / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pre_tokenizer": {"type": "OfLater"}}))
    return f"{file}: pre_tokenizer of type OfLater, which the pinned tokenizers library does not know"


INV_FREQ = "model.layers.{}.self_attn.rotary_emb.inv_freq"


def frequencies_of_another_theta(source: Path) -> str:
    wrong = llamas.frequencies(16, {"rope_theta": 10_000.0, "rope_scaling": llamas.ROPE_SCALING})
    llamas.add_tensors(source, {INV_FREQ.format(3): wrong})
    return (
        f"{min(source.glob('*.safetensors'))}: {INV_FREQ.format(3)}: not the frequencies of config.json's RoPE (theta "
    )


SPOILT = [
    no_config,
    config_is_not_json,
    missing_shard,
    index_names_another_file,
    index_leaves_the_directory,
    no_index,
    pickled_weights,
    truncated,
    truncated_in_the_header,
    empty,
    header_is_no_json,
    header_with_another_size,
    other_shape,
    other_type,
    mixed_types,
    missing_tensor,
    tensor_too_many,
    frequencies_of_another_theta,
    tensor_in_another_file,
    broken_tokenizer,
    token_without_an_id,
    tokenizer_of_a_later_library,
]


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_files_that_are_not_whole(spoil: Callable[[Path], str], source: Path, tmp_path: Path) -> None:
    says = spoil(source)
    (line,) = refusal(source, tmp_path / "out")
    assert line.startswith(says)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_repeats_the_rest_is_left_out(dtype: torch.dtype, source: Path) -> None:
    """Frequencies as in Llama 2's own files, and an output layer that is the tied embedding."""
    expected = hugging_face.inspect(source).tensors.keys() - {"lm_head.weight"}
    rope = {name: llamas.COMMON[name] for name in ("rope_theta", "rope_scaling")}
    repeated = {INV_FREQ.format(layer): llamas.frequencies(16, rope).to(dtype) for layer in range(4)}
    (embedding,) = (
        tensors["model.embed_tokens.weight"]
        for tensors in map(load_file, source.glob("*.safetensors"))
        if "model.embed_tokens.weight" in tensors
    )
    change(source, "lm_head.weight", embedding, "")
    llamas.add_tensors(source, repeated)
    llamas.edit_config(source, tie_word_embeddings=True)
    assert hugging_face.inspect(source).tensors.keys() == expected


def test_all_missing_files_are_named(source: Path, tmp_path: Path) -> None:
    for number in (2, 4, 5):
        (source / SHARD.replace("00002", f"{number:05d}")).unlink()
    lines = refusal(source, tmp_path / "out")
    assert [line.split("names ")[1].split(",")[0][6:11] for line in lines] == ["00002", "00004", "00005"]


# --- Source and destination ---------------------------------------------------------------------------------------


def test_no_source(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path / "nothing", tmp_path / "out")
    assert line == f"{tmp_path / 'nothing'}: no such directory; --source is the directory of a checkpoint"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_destination_exists(kind: str, model: Path, tmp_path: Path) -> None:
    destination = tmp_path / "out"
    {"directory": destination.mkdir, "file": destination.touch}.get(kind, lambda: destination.symlink_to("nothing"))()
    (line,) = refusal(model, destination)
    assert line == f"{destination}: exists; remove it or choose another --destination"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_not_ours_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").touch()
    (line,) = refusal(model, tmp_path / "out")
    assert line == f"{tmp_path / 'out.partial'}: exists, but not from a conversion; remove it"


def test_too_little_disk_space(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=300_000))
    with pytest.raises(UserError) as error:
        convert.convert(model, tmp_path / "new" / "out", "nemo")
    assert error.value.lines == [f"{tmp_path / 'new' / 'out'}: needs 476.3 kB more, and 300 kB are free on its disk"]
    assert not (tmp_path / "new").exists()


def test_wrong_direction(model: Path, tmp_path: Path) -> None:
    (line,) = refusal(model, tmp_path / "out", "--to=hf")
    assert line.startswith(f"{model}: is a Hugging Face checkpoint already; ")
    (tmp_path / "nemo" / "weights").mkdir(parents=True)
    (line,) = refusal(tmp_path / "nemo", tmp_path / "out")
    assert line.startswith(f"{tmp_path / 'nemo'}: is a NeMo checkpoint already; ")
