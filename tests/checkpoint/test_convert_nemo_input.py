"""NeMo checkpoints that `convert` refuses; nothing in them is executed."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from refused_conversions import refusal

from llama31.checkpoint.convert import convert
from llama31.checkpoint.formats import dcp_metadata, nemo
from llama31.common.errors import UserError


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "checkpoint"
    assert convert.convert(model, directory, "nemo") == 0
    return directory


def no_context(source: Path) -> str:
    shutil.rmtree(source / "context")
    return f"{source}: has no directory context; a NeMo checkpoint has context and weights"


def other_format(source: Path) -> str:
    file = source / "weights" / nemo.BACKEND
    file.write_text(file.read_text().replace("torch_dist", "zarr"))
    return f"{file}: not in the format torch_dist, the only supported one"


def no_table(source: Path) -> str:
    (source / "weights" / dcp_metadata.FILE).unlink()
    return f"{source / 'weights' / dcp_metadata.FILE}: No such file or directory"


def truncated_table(source: Path) -> str:
    file = source / "weights" / dcp_metadata.FILE
    file.write_bytes(file.read_bytes()[:-100])
    return f"{file}: cannot be read as the table of a distributed checkpoint"


def missing_file(source: Path) -> str:
    (source / "weights" / "__0_2.distcp").unlink()
    return f"{source / 'weights' / dcp_metadata.FILE}: names __0_2.distcp, which is missing"


def truncated_file(source: Path) -> str:
    file = source / "weights" / "__0_2.distcp"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    return f"{file}: truncated: {size - 1:,} bytes of {size:,}"


def a_part_left_out(source: Path) -> str:
    from torch.distributed.checkpoint import FileSystemReader

    table = FileSystemReader(source / "weights").read_metadata()
    key = "module.decoder.layers.mlp.linear_fc2.weight"
    table.state_dict_metadata[key].chunks.pop()
    (source / "weights" / dcp_metadata.FILE).write_bytes(pickle.dumps(table))
    return f"{source / 'weights'}: {key} is incomplete: the table lacks a part of it"


def another_model(source: Path) -> str:
    return edit_model(source, "llama.LlamaModel", "llama.LlamaModel", "", "llama.Llama31Config", "qwen.Qwen2Config")


def other_layers(source: Path) -> str:
    edit_model(source, "num_layers: 4", "num_layers: 5", "")
    return f"{source / 'weights'}: module.decoder.layers.self_attention.linear_qkv.layer_norm_weight has shape [4, 64]"


def tied(source: Path) -> str:
    edit_model(source, "share_embeddings_and_output_weights: false", "share_embeddings_and_output_weights: true", "")
    return f"{source / 'weights'}: holds module.output_layer.weight, which a Llama with this model.yaml does not have"


def edit_model(source: Path, old: str, new: str, says: str, *more: str) -> str:
    file = source / "context" / nemo.MODEL
    text = file.read_text().replace(old, new)
    if more:
        text = text.replace(*more)
        says = f"the model is a {more[1].rpartition('.')[2]}, not a Llama"
    file.write_text(text)
    return f"{file}: {says}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        no_context,
        other_format,
        no_table,
        truncated_table,
        missing_file,
        truncated_file,
        a_part_left_out,
        another_model,
        other_layers,
        tied,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_nemo_checkpoints_that_are_not_whole(spoil: Callable[[Path], str], made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "source")
    says = spoil(tmp_path / "source")
    first, *_ = refusal(tmp_path / "source", tmp_path / "out", "--to=hf")
    assert first.startswith(says)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


class Attack:
    """What a pickle of a stranger's checkpoint may hold."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


@pytest.mark.slow
def test_nothing_in_a_checkpoint_is_executed(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "source")
    victim = tmp_path / "victim"
    bomb = pickle.dumps(Attack(victim))
    pickle.loads(bomb)  # noqa: S301 - the attack works on a plain unpickler
    assert victim.exists()
    victim.unlink()
    (tmp_path / "source" / "weights" / dcp_metadata.FILE).write_bytes(bomb)
    (line,) = refusal(tmp_path / "source", tmp_path / "out", "--to=hf")
    assert "cannot be read as the table" in line
    assert not victim.exists()


@pytest.mark.slow
def test_code_of_a_tokenizer_is_not_run(made: Path, tmp_path: Path) -> None:
    """Without an answer of its caller, transformers asks on the terminal whether to run it."""
    source = Path(shutil.copytree(made, tmp_path / "source"))
    configuration = source / "context" / "tokenizer" / "tokenizer_config.json"
    described = {"tokenizer_class": "Strange", "auto_map": {"AutoTokenizer": ["tokenizer_own.Strange", None]}}
    configuration.write_text(json.dumps({**json.loads(configuration.read_text()), **described}))
    own = configuration.with_name("tokenizer_own.py")  # a name that a conversion copies
    own.write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\nclass Strange: pass\n")
    with pytest.raises(UserError, match=r"transformers cannot load the tokenizer: .*custom code") as error:
        convert.convert(source, tmp_path / "out", "hf")
    assert len(error.value.lines) == 1 and not (tmp_path / "executed").exists()
