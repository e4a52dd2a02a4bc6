"""RoPE in config.json as transformers 4 and 5 write it: read right, or refused in a line that says what is wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import FIXTURES
from llamas import STRETCHED, frequencies
from oracle import ROPE_SCALING
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llama31.checkpoint.convert import reference_config
from llama31.checkpoint.formats import architecture
from llama31.checkpoint.formats.rope import Rope, RopeScaling, read
from llama31.common.errors import UserError

BY_TRANSFORMERS_5 = [FIXTURES / f"config_by_transformers_{version}.json" for version in ("5.17.0", "5.24.0")]
"""config.json of one Llama, saved by transformers 5; those of 5.0.0, 5.20.2 and 5.22.2 differ in their version only."""
FILE = Path("config.json")
PLAIN = {"rope_type": "default"}
THETA = {"rope_theta": 500_000.0}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Rope(10_000.0, None)),  # Llama 1 and 2
        ({"rope_theta": 10_000.0, "rope_scaling": None}, Rope(10_000.0, None)),
        ({**THETA, "rope_scaling": None}, Rope(500_000.0, None)),
        ({**THETA, "rope_scaling": PLAIN}, Rope(500_000.0, None)),
        ({**THETA, "rope_scaling": ROPE_SCALING}, Rope(500_000.0, STRETCHED)),
        ({"rope_theta": 500_000, "rope_scaling": {**ROPE_SCALING, "factor": 8}}, Rope(500_000.0, STRETCHED)),
        ({"rope_scaling": {**ROPE_SCALING, **THETA}}, Rope(500_000.0, STRETCHED)),
        ({**THETA, "rope_scaling": {**ROPE_SCALING, **THETA}}, Rope(500_000.0, STRETCHED)),
        ({"rope_parameters": {**ROPE_SCALING, **THETA}}, Rope(500_000.0, STRETCHED)),
        ({"rope_parameters": {**PLAIN, **THETA}}, Rope(500_000.0, None)),
        ({"rope_parameters": {**PLAIN, **THETA, "partial_rotary_factor": 1.0}}, Rope(500_000.0, None)),
        ({"rope_parameters": {**PLAIN, "rope_theta": 1e4}, "rope_theta": 1e4, "rope_scaling": None}, Rope(1e4, None)),
        ({**THETA, "rope_scaling": ROPE_SCALING, "rope_parameters": {**ROPE_SCALING, **THETA}},
         Rope(500_000.0, STRETCHED)),
    ],
    ids=str,
)  # fmt: skip
def test_forms_of_both_generations(fields: dict[str, Any], expected: Rope) -> None:
    assert read(fields, FILE) == expected


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rope_scaling": ROPE_SCALING}, "rope_theta is missing, in rope_scaling and outside of it; "),
        ({"rope_parameters": ROPE_SCALING}, "rope_theta is missing, in rope_parameters and outside of it; "),
        ({"rope_parameters": PLAIN}, "rope_theta is missing, in rope_parameters and outside of it; "),
        ({"rope_parameters": {}}, "rope_parameters.rope_type is None; supported: llama3, default"),
        ({"rope_parameters": "llama3"}, "rope_parameters is llama3; it must be null or an object"),
        ({"rope_parameters": {**THETA, "full_attention": PLAIN}}, "rope_parameters.rope_type is None; "),
        ({"rope_parameters": {**THETA, **PLAIN, "full_attention": None, "mscale": 0.7}},
         "rope_parameters.mscale is 0.7, which could mean another model; known with rope_type default: rope_theta"),
        ({**THETA, "rope_scaling": {**ROPE_SCALING, "attention_factor": 1.2}},
         "rope_scaling.attention_factor is 1.2, which could mean another model; known with rope_type llama3: "),
        ({**THETA, "rope_scaling": {**ROPE_SCALING, "type": "linear"}}, "rope_scaling.type is linear; "),
        ({**THETA, "rope_scaling": {**ROPE_SCALING, "high_freq_factor": 1.0}}, "rope_scaling.high_freq_factor is 1.0"),
        ({**THETA, "rope_scaling": ROPE_SCALING, "original_max_position_embeddings": 4096},
         "original_max_position_embeddings is 4096; rope_scaling has 8192"),
        ({**THETA, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; a Llama rotates whole heads"),
        ({"rope_parameters": {**THETA, **PLAIN, "partial_rotary_factor": 0.5}},
         "rope_parameters.partial_rotary_factor is 0.5; a Llama rotates whole heads"),
        ({"rope_theta": float("inf")}, "rope_theta is inf; it must be a number above 0"),
        # What transformers 4 makes of a file of transformers 5, and of a theta inside of rope_scaling:
        ({"rope_theta": 10_000.0, "rope_scaling": None, "rope_parameters": {**ROPE_SCALING, **THETA}},
         "rope_parameters.rope_theta is 500000.0, rope_theta outside of it 10000.0; rope_parameters is right if "),
        ({"rope_theta": 10_000.0, "rope_scaling": {**ROPE_SCALING, **THETA}},
         "rope_scaling.rope_theta is 500000.0, rope_theta outside of it 10000.0; rope_scaling is right if "),
        ({"rope_theta": 10_000.0, "rope_parameters": {**ROPE_SCALING, "rope_theta": 10_000.0}},
         "rope_parameters says theta 10000.0, scaling factor 8.0, low_freq_factor 1.0, high_freq_factor "),
        ({"rope_theta": 400_000.0, "rope_parameters": {**PLAIN, **THETA}},
         "rope_parameters.rope_theta is 500000.0, rope_theta outside of it 400000.0; remove the one that is wrong"),
        ({**THETA, "rope_scaling": {**ROPE_SCALING, "factor": 32.0}, "rope_parameters": {**ROPE_SCALING, **THETA}},
         "rope_parameters says theta 500000.0, scaling factor 8.0, "),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_incomplete_unknown_or_contradictory(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        read(fields, FILE)
    (line,) = error.value.lines
    assert line.startswith(f"{FILE}: {says}")


def test_each_unknown_key_has_its_line() -> None:
    with pytest.raises(UserError) as error:
        read({"rope_parameters": {**PLAIN, **THETA, "beta_fast": 32, "mscale": 1.0}}, FILE)
    assert [line.split(",")[0] for line in error.value.lines] == [
        f"{FILE}: rope_parameters.beta_fast is 32",
        f"{FILE}: rope_parameters.mscale is 1.0",
    ]


@pytest.mark.parametrize("file", BY_TRANSFORMERS_5, ids=lambda file: file.stem)
def test_a_configuration_saved_by_transformers_5(file: Path, tmp_path: Path) -> None:
    found = architecture.from_hugging_face(json.loads(file.read_text()), file)
    assert found.rope == Rope(500_000.0, STRETCHED)
    shutil.copyfile(file, tmp_path / "config.json")
    LlamaConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")  # by transformers 4, which loses it
    file = tmp_path / "again" / "config.json"
    with pytest.raises(UserError, match="rope_parameters is right if transformers 4 saved the file"):
        architecture.from_hugging_face(json.loads(file.read_text()), file)


@pytest.mark.parametrize(
    "scaling", [None, STRETCHED, RopeScaling(32.0, 1.0, 4.0, 8192), RopeScaling(2.0, 1.0, 16.0, 64)]
)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_frequencies_are_those_of_transformers(scaling: RopeScaling | None, theta: float) -> None:
    rope = Rope(theta, scaling)
    expected = frequencies(64, rope.hugging_face())
    torch.testing.assert_close(torch.tensor(rope.frequencies(64)), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scaling", [None, STRETCHED])
def test_an_exported_configuration_says_the_same_in_both_generations(
    scaling: RopeScaling | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers 4 ignores rope_parameters, so what it reads and keeps is in the older fields."""
    rope = Rope(500_000.0, scaling)
    LlamaConfig(max_position_embeddings=131_072, **rope.hugging_face()).save_pretrained(tmp_path)
    LlamaConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert read(fields, FILE) == rope
    older = {name: value for name, value in fields.items() if name != "rope_parameters"}
    newer = {name: value for name, value in fields.items() if name not in ("rope_theta", "rope_scaling")}
    assert read(older, FILE) == read(newer, FILE) == rope
    assert not caplog.records


@pytest.mark.parametrize(
    "fields",
    [
        {},
        THETA,
        {**THETA, "rope_scaling": ROPE_SCALING},
        {**THETA, "rope_scaling": PLAIN, "head_dim": None, "_attn_implementation": "flash_attention_2"},
        {**THETA, "rope_scaling": ROPE_SCALING, "return_dict": False, "torch_dtype": "bfloat16", "pad_token_id": -1},
    ],
    ids=str,
)
def test_the_reference_reads_older_files_as_transformers_does(fields: dict[str, Any], tmp_path: Path) -> None:
    given = {"max_position_embeddings": 131_072, "hidden_size": 128, "num_attention_heads": 4, **fields}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **given}))
    ours, theirs = reference_config.of_hugging_face(tmp_path), LlamaConfig.from_pretrained(tmp_path)
    assert {name: getattr(ours, name) for name in reference_config.HUGGING_FACE} == {
        name: getattr(theirs, name) for name in reference_config.HUGGING_FACE
    }
    assert torch.equal(LlamaRotaryEmbedding(ours).inv_freq, LlamaRotaryEmbedding(theirs).inv_freq)
    assert ours.return_dict is True
    assert ours._attn_implementation is None
