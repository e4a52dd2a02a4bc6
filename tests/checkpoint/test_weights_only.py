"""Weights that FROM_HF=1 refuses: incomplete ones or another model's; in a dry run, without torch."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fiddle
import llamas
import pytest
import yaml
from runs import REPOSITORY, TIMEOUT, arguments, environment

from llama31.checkpoint import weights_only
from llama31.checkpoint.convert import convert
from llama31.checkpoint.formats import architecture, dcp_metadata, nemo
from llama31.cli import launch
from llama31.common.errors import UserError
from llama31.config.model_sizes import SIZES
from llama31.data.tokenizer import TOKENIZER_FILE
from llama31.model.device import Backend
from llama31.model.llama import model_config
from llama31.settings import Settings

pytestmark = pytest.mark.slow

WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(("megatron", "nemo", "safetensors", "torch", "transformers")))
from llama31.cli import main as cli
cli.main()
"""
WEIGHTS_FILE = f"{nemo.WEIGHTS}/__0_2.distcp"
TABLE = f"{nemo.WEIGHTS}/{dcp_metadata.FILE}"
MODEL = f"{nemo.CONTEXT}/{nemo.MODEL}"


@pytest.fixture(scope="module")
def made(tiny_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama 3.1 of Hugging Face's in the dimensions of SIZE=tiny, with the data's tokenizer, converted."""
    directory = tmp_path_factory.mktemp("made")
    model = llamas.make(llamas.KINDS["3.1"], directory / "model")
    shutil.copytree(tiny_data["TOKENIZER_PATH"], model, dirs_exist_ok=True)
    assert convert.convert(model, directory / "checkpoint", "nemo") == 0
    return directory / "checkpoint"


@pytest.fixture
def converted(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "a checkpoint"))


def refused(given: dict[str, Any], path: Path, *more: str) -> list[str]:
    """Lines of a dry run on MODEL_CKPT=path."""
    with pytest.raises(UserError) as error:
        launch.run([*arguments(given), f"MODEL_CKPT={path}", "FROM_HF=1", "--dryrun", *more])
    begin = f"MODEL_CKPT={path}: "
    assert all(line.startswith(begin) and "\n" not in line for line in error.value.lines)
    return [line.removeprefix(begin) for line in error.value.lines]


def edit_model(path: Path, **changes: Any) -> None:
    """Changes fields of the configuration in NeMo's context."""
    model = yaml.safe_load((path / MODEL).read_text())
    assert changes.keys() <= model["config"].keys()
    model["config"] |= changes
    (path / MODEL).write_text(yaml.safe_dump(model))


def test_the_runs_own_model_starts(usual: dict[str, str], converted: Path, capsys: pytest.CaptureFixture) -> None:
    assert launch.run([*arguments(usual), f"MODEL_CKPT={converted}", "FROM_HF=1", "--dryrun"]) == 0
    assert f"starts from the weights in {converted}" in " ".join(capsys.readouterr().out.split())


def test_another_size(usual: dict[str, str], converted: Path) -> None:
    assert refused(usual, converted, "SIZE=demo") == [
        "has hidden_size 64, SIZE=demo has 256",
        "has ffn_hidden_size 160, SIZE=demo has 704",
        "has attention_heads 4, SIZE=demo has 8",
        "has key_value_heads 2, SIZE=demo has 4",
        "has head_size 16, SIZE=demo has 32",
    ]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("rotary_base", 10_000, "has rope_theta 10000.0, SIZE=tiny has 500000.0"),
        ("layernorm_epsilon", 1e-6, "has norm_epsilon 1e-06, SIZE=tiny has 1e-05"),
        ("scale_factor", 32.0, "has rope_scaling.factor 32.0, SIZE=tiny has 8.0"),
        ("old_context_len", 4096, "has rope_scaling.original_max_position_embeddings 4096, SIZE=tiny has 8192"),
    ],
)
def test_numbers_that_no_weight_shows(
    field: str, value: float, says: str, usual: dict[str, str], converted: Path
) -> None:
    edit_model(converted, **{field: value})
    assert refused(usual, converted) == [says]


def test_llama_3_0_and_tied_embeddings(usual: dict[str, str], tmp_path: Path) -> None:
    """Another Llama altogether: all differences at once, and rows that the data's ids lack."""
    model = llamas.make(llamas.KINDS["3.0 tied, odd vocabulary"], tmp_path / "model")
    assert convert.convert(model, tmp_path / "checkpoint", "nemo") == 0
    lines = refused(usual, tmp_path / "checkpoint")
    assert "has key_value_heads 4, SIZE=tiny has 2" in lines
    assert "has tied_embeddings True, SIZE=tiny has False" in lines
    assert "has rope_scaling.factor None, SIZE=tiny has 8.0" in lines
    tokenizer = f"TOKENIZER_PATH={usual['TOKENIZER_PATH']}"
    assert f"has vocab_size 1001, {tokenizer} has 512 ids (512 rows with Megatron's padding)" in lines


@pytest.mark.parametrize(
    ("rows", "ids", "parallel", "fits"),
    [(512, 512, 1, True), (512, 500, 1, True), (512, 513, 1, False), (513, 512, 1, False), (1024, 513, 4, True),
     (1024, 513, 2, False)],
)  # fmt: skip
def test_rows_of_the_embeddings(rows: int, ids: int, parallel: int, fits: bool) -> None:
    settings = Settings(size="tiny", tensor_parallel_size=parallel)
    theirs, ours = (architecture.of_size("tiny", count, 32) for count in (rows, ids))
    assert (list(weights_only._differences(theirs, ours, settings)) == []) is fits


def test_another_tokenizer(usual: dict[str, str], converted: Path) -> None:
    file = converted / nemo.CONTEXT / nemo.TOKENIZER / TOKENIZER_FILE
    content = json.loads(file.read_text())
    first, second, *_ = content["model"]["vocab"]
    of = content["model"]["vocab"]
    of[first], of[second] = of[second], of[first]
    file.write_text(json.dumps(content))
    (line,) = refused(usual, converted)
    assert line.startswith("has another tokenizer (SHA-256 of tokenizer.json ")
    assert line.endswith(f"use the one in {file.parent}")


def truncate(path: Path) -> str:
    file = path / WEIGHTS_FILE
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    return f"{WEIGHTS_FILE}: truncated: {size - 1:,} bytes of {size:,}"


def remove_weights(path: Path) -> str:
    (path / WEIGHTS_FILE).unlink()
    return f"{TABLE}: names {Path(WEIGHTS_FILE).name}, which is missing"


def remove_table(path: Path) -> str:
    (path / TABLE).unlink()
    return f"{TABLE}: No such file or directory"


def remove_common(path: Path) -> str:
    (path / weights_only.COMMON).unlink()
    return f"{weights_only.COMMON} is missing; Megatron cannot load weights without it"


def remove_weights_directory(path: Path) -> str:
    shutil.rmtree(path / nemo.WEIGHTS)
    return "has no directory weights; a NeMo checkpoint has context and weights"


def remove_context(path: Path) -> str:
    shutil.rmtree(path / nemo.CONTEXT)
    return "has no directory context; a NeMo checkpoint has context and weights"


def remove_model(path: Path) -> str:
    (path / MODEL).unlink()
    return f"{MODEL}: No such file or directory"


@pytest.mark.parametrize(
    "spoil",
    [truncate, remove_weights, remove_table, remove_common, remove_weights_directory, remove_context, remove_model],
    ids=lambda spoil: spoil.__name__,
)
def test_what_is_not_whole(spoil: Callable[[Path], str], usual: dict[str, str], converted: Path) -> None:
    says = spoil(converted)
    assert refused(usual, converted) == [says]


def test_a_refusal_needs_no_torch(usual: dict[str, str], converted: Path) -> None:
    says = truncate(converted)
    given = [*arguments(usual), f"MODEL_CKPT={converted}", "FROM_HF=1", "--dryrun"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "run", *given],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT, env=environment(), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, f"MODEL_CKPT={converted}: {says}\n")
    assert not (Path(usual["JOB_DIR"]) / "latest").exists()


@pytest.mark.parametrize("size", SIZES)
def test_the_expected_numbers_are_those_of_nemos_configuration(size: str) -> None:
    settings = Settings(size=size, seq_length=32)
    config = fiddle.build(model_config(settings, Backend("cpu", transformer_engine=False)))
    fields = {**vars(config), "_target_": f"{type(config).__module__}.{type(config).__qualname__}"}
    assert architecture.from_nemo(fields, 512, Path("model.yaml")) == architecture.of_size(size, 512, 32)
