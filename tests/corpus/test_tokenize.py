"""Token ids and files, judged by transformers' tokenizer and Megatron's builder."""

import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gigatoken
import pytest
import torch
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from tokenized_texts import of_both
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from dev import demo_tokenizer
from llama31.common.errors import UserError
from llama31.corpus import documents, reference
from llama31.corpus import tokenize as tokenize_module
from llama31.corpus.encoder import ExactEncoder
from llama31.corpus.fast_encoder import FastEncoder
from llama31.corpus.reference import TokenizerReference
from llama31.corpus.texts import Texts
from llama31.corpus.tokenize import tokenize
from llama31.data import token_manifest
from llama31.data.token_file import summary
from llama31.data.tokenizer import fingerprint, vocabulary_size

TEXTS = [
    "The quick brown fox, it's 1234567 o'clock.",
    "",
    "special <|eot_id|><|begin_of_text|> tokens<|end_of_text|>\n<|no_such|> <|eot_id",
    "CRLF\r\nand\rCR\n\n\ttabs  \u00a0 and spaces   ",
    "NUL \x00 and \x1f \x7f",
    "emoji \U0001f469\u200d\U0001f4bb \U0001f1e8\U0001f1ed combining e\u0301\u0327 n\u0303 \u0644\u0627",
    " ",
    "",
    "\u4e2d\u6587 big\u2028line\u2029breaks\u0085here",
    "x" * 20_000,
    "last",
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizer of Llama 3's kind with 500 entries: uint16."""
    directory = tmp_path_factory.mktemp("small")
    demo_tokenizer.save(demo_tokenizer.train(TEXTS * 2, vocabulary=400), directory)
    return directory


@pytest.fixture(scope="module")
def large(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with so many more entries that ids are int32 and some are beyond 65,535."""
    directory = tmp_path_factory.mktemp("large")
    content = json.loads((small / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    first, more = len(vocabulary), 70_000
    vocabulary.update({f"\u0120w{number}": first + number for number in range(more)})
    for token in content["added_tokens"]:
        token["id"] += more
    (bos,) = content["post_processor"]["processors"][1]["special_tokens"].values()
    bos["ids"] = [first + more]
    (directory / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((small / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def write_lines(path: Path, texts: Sequence[str]) -> Path:
    data = "".join(json.dumps({"text": text, "url": "u"}, ensure_ascii=False) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@cache
def huggingface(tokenizer_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True)


@cache
def fast(tokenizer_dir: Path) -> tuple[FastEncoder, TokenizerReference]:
    return of_both(tokenizer_dir)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Do what nemo.collections.common.tokenizers.AutoTokenizer.text_to_ids does."""
    ids: list[int] = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    return ids


def oracle(prefix: Path, texts: Sequence[str], tokenizer_dir: Path, append_eod: bool) -> None:
    """Do what NeMo's preprocess_data_for_megatron.py does."""
    tokenizer = huggingface(tokenizer_dir)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(len(tokenizer)))
    for text in texts:
        if ids := ids_of(tokenizer, text):
            builder.add_item(torch.IntTensor(ids + [tokenizer.eos_token_id] * append_eod))
            builder.end_document()
    builder.finalize(f"{prefix}.idx")


def same_bytes(one: Path, other: Path) -> bool:
    return all(Path(f"{one}{end}").read_bytes() == Path(f"{other}{end}").read_bytes() for end in (".bin", ".idx"))


@pytest.mark.parametrize("append_eod", [False, True])
@pytest.mark.parametrize("kind", ["small", "large"])
def test_bytes_are_the_oracles(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, append_eod: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer_dir = request.getfixturevalue(kind)
    texts = [*TEXTS, "big ids w69999 w1 w65535"]
    source = write_lines(tmp_path / "in.json.gz", texts)
    found = tokenize([source], tmp_path / "ours", tokenizer_dir, append_eod=append_eod)
    oracle(tmp_path / "theirs", texts, tokenizer_dir, append_eod)
    assert same_bytes(tmp_path / "ours", tmp_path / "theirs")
    assert found == summary(tmp_path / "ours")
    assert found.documents == len(texts) - 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("by gigatoken")

    facts = token_manifest.read(tmp_path / "ours")
    assert facts is not None
    assert (facts.inputs, facts.input_bytes) == (["in.json.gz"], [source.stat().st_size])
    assert facts.tokenizer_sha256 == fingerprint(tokenizer_dir)
    assert (facts.documents, facts.tokens, facts.append_eod) == (found.documents, found.tokens, append_eod)
    assert facts.dtype == ("int32" if kind == "large" else "uint16")
    assert facts.largest_id == max(found.first_tokens(found.tokens)) < facts.vocabulary_size


@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
def test_kinds_of_input_and_block_sizes(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    texts = [text for text in TEXTS if len(text) < 1000]
    oracle(tmp_path / "theirs", texts, small, append_eod=False)
    plain = write_lines(tmp_path / "1.json", texts[:4])
    plain.write_bytes(plain.read_bytes().replace(b"\n", b"\r\n") + b"\n")
    lines = write_lines(tmp_path / "2.jsonl", texts[4:5])
    lines.write_bytes(lines.read_bytes().rstrip(b"\n"))
    members = write_lines(tmp_path / "3.json.gz", texts[5:8])
    members.write_bytes(members.read_bytes() + write_lines(tmp_path / "rest.json.gz", texts[8:]).read_bytes())
    monkeypatch.setattr(documents, "BLOCK_BYTES", block_bytes)
    tokenize([plain, lines, members], tmp_path / "ours", small, quiet=True)
    assert same_bytes(tmp_path / "ours", tmp_path / "theirs")


SPECIALS = st.sampled_from(
    [*demo_tokenizer.SPECIAL_TOKENS, "\r\n", "\x00", "  ", "\u0301", "\U0001f469\u200d\U0001f4bb"]
)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.lists(st.text(max_size=30) | SPECIALS, max_size=4).map("".join), min_size=1, max_size=20))
def test_any_text(small: Path, texts: list[str]) -> None:
    tokenizer = huggingface(small)
    encoder, exact = fast(small)
    joined = Texts.of(texts)
    ids, lengths = encoder.encode(joined, exact.known([joined]))
    expected = [ids_of(tokenizer, text) for text in texts if text]
    assert lengths.tolist() == [len(row) for row in expected]
    assert ids.tolist() == [number for row in expected for number in row]


@pytest.mark.parametrize("how", ["other ids at once", "other ids far down", "too few", "it fails", "it panics"])
def test_slow_path_is_exact(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """Any failure of the fast library is detected, and the other library encodes everything."""
    right = gigatoken.Tokenizer.encode_batch
    texts = [f"text {number}" for number in range(3000)]

    def wrong(self: Any, source: Any, **options: Any) -> Any:
        ids, lengths = right(self, source, **options)
        is_far = "far" in how and "text 2500" in self.decode(ids).decode()
        if how == "it fails":
            raise ValueError("no such thing")
        if how == "it panics":
            raise BaseException("as Rust's panics do")
        if how == "too few":
            return ids[: -lengths[-1]], lengths[:-1]
        if how == "other ids far down" and not is_far:
            return ids, lengths
        return ids * 0, lengths

    monkeypatch.setattr(gigatoken.Tokenizer, "encode_batch", wrong)
    monkeypatch.setattr(documents, "BLOCK_BYTES", 10_000)
    monkeypatch.setattr(reference, "CHECK_EVERY", 100)
    monkeypatch.setattr(tokenize_module, "CHECKPOINT_SECONDS", 0)
    tokenize([write_lines(tmp_path / "in.json", texts)], tmp_path / "ours", small, quiet=True)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "gigatoken is not exact for this tokenizer" in warning
    oracle(tmp_path / "theirs", texts, small, append_eod=False)
    assert same_bytes(tmp_path / "ours", tmp_path / "theirs")
    facts = token_manifest.read(tmp_path / "ours")
    assert facts is not None
    assert "gigatoken" not in facts.versions


def test_tokenizer_of_another_kind(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    assert vocabulary_size(tmp_path) == 3
    found = tokenize([write_lines(tmp_path / "in.json", ["a b", "c a"])], tmp_path / "out", tmp_path, quiet=True)
    assert found.first_tokens(9).tolist() == [1, 2, 0, 1]


GOOD = b'{"text":"fine"}\n'
BAD_INPUT = {
    "not JSON": (GOOD + b'\n{"text": "cut\n' + GOOD, ".json", "{path}:3: not JSON"),
    "invalid UTF-8": (GOOD + b'{"text":"\xff"}\n', ".jsonl", "{path}:2: not JSON"),
    "lone surrogate": (GOOD + b'{"text":"\\ud800"}\n', ".json", '{path}:2: "text" contains a lone surrogate, U+D800'),
    "no text": (GOOD + b'{"txt":"a"}\n', ".json", '{path}:2: not an object with a "text"'),
    "no object": (GOOD + b"[1]\n", ".json", '{path}:2: not an object with a "text"'),
    "not a string": (GOOD + b'{"text":3}\n', ".json", '{path}:2: "text" is not a string but a number'),
    "far down": (GOOD * 5000 + b"no\n", ".json.gz", "{path}:5001: not JSON"),
    "truncated gzip": (gzip.compress(GOOD * 5000)[:-20], ".raw.json.gz", "{path}:4694: truncated gzip"),
    "not gzip": (GOOD, ".raw.json.gz", "{path}: is not gzip data: it begins with b'{{\"'; plain data must not be"),
    "gzip": (gzip.compress(GOOD), ".json", "{path}: contains gzip data; rename it to in.json.gz"),
    "truncated zstd": (zstd.compress(GOOD * 5000)[:-1], ".json.zst", "{path}:1: truncated zstd file"),
    "damaged zstd": (zstd.compress(GOOD)[:8] + b"\x07" * 40, ".json.zst", "{path}:1: "),
    "damaged gzip": (gzip.compress(GOOD)[:12] + b"\x07" * 40, ".raw.json.gz", "{path}:1: "),
    "other name": (GOOD, ".txt", "{path}: not one of .json"),
    "no text at all": (b'{"text":""}\n', ".json", "{path}: no text in any record"),
    "empty": (b"", ".json", "{path}: no text in any record"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gives_one_line(tmp_path: Path, small: Path, name: str) -> None:
    data, suffix, message = BAD_INPUT[name]
    source = tmp_path / f"in{suffix}"
    source.write_bytes(gzip.compress(data) if suffix == ".json.gz" else data)
    out = tmp_path / "out"
    with pytest.raises(UserError) as error:
        tokenize([source], out / "data", small, quiet=True)
    (line,) = error.value.lines
    assert message.format(path=source) in line
    assert "\n" not in line
    assert not out.exists() or not list(out.iterdir())


def test_missing_inputs_are_all_named(tmp_path: Path, small: Path) -> None:
    with pytest.raises(UserError) as error:
        tokenize([tmp_path / "a.json", tmp_path / "b.json.gz"], tmp_path / "out", small)
    assert error.value.lines == [f"{tmp_path / 'a.json'}: no such file", f"{tmp_path / 'b.json.gz'}: no such file"]


@pytest.mark.parametrize("file", ["data.bin", "data.idx", "data.manifest.json"])
def test_full_disk(tmp_path: Path, small: Path, file: str) -> None:
    source = write_lines(tmp_path / "in.json", TEXTS)
    out = tmp_path / "out"
    out.mkdir()
    (out / f"{file}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError) as error:
        tokenize([source], out / "data", small, quiet=True)
    assert error.value.lines == [f"{out / file}: No space left on device"]
    left = {path.name for path in out.iterdir()}
    assert left == ({"data.bin", "data.checkpoint.json", "data.idx"} if file == "data.manifest.json" else set())
    tokenize([source], out / "data", small, quiet=True)  # now that there is enough space
    oracle(tmp_path / "theirs", TEXTS, small, append_eod=False)
    assert same_bytes(out / "data", tmp_path / "theirs")
    assert {path.name for path in out.iterdir()} == {"data.bin", "data.idx", "data.manifest.json"}


def test_failure_keeps_existing_files(tmp_path: Path, small: Path) -> None:
    out = tmp_path / "out"
    tokenize([write_lines(tmp_path / "in.json", TEXTS)], out / "data", small, quiet=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {"data.bin", "data.idx", "data.manifest.json"}
    (tmp_path / "bad.json").write_bytes(GOOD + b"no\n")
    with pytest.raises(UserError):
        tokenize([tmp_path / "bad.json"], out / "data", small, quiet=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


BAD_TOKENIZER = {
    "no directory": (None, "no such tokenizer directory"),
    "no file": ({}, "holds no tokenizer.json"),
    "not JSON": ({"tokenizer.json": "{"}, "not JSON"),
    "other JSON": ({"tokenizer.json": '{"model": {}}'}, "not of the format"),
    "no vocabulary": ({"tokenizer.json": '{"model": {"vocab": {}}, "added_tokens": []}'}, "not of the format"),
}


@pytest.mark.parametrize("name", BAD_TOKENIZER)
def test_bad_tokenizer_gives_one_line(tmp_path: Path, name: str) -> None:
    files, message = BAD_TOKENIZER[name]
    directory = tmp_path / "tokenizer"
    if files is not None:
        directory.mkdir()
        for file, content in files.items():
            (directory / file).write_text(content)
    source = write_lines(tmp_path / "in.json", TEXTS)
    for use in (vocabulary_size, lambda path: tokenize([source], tmp_path / "out", path, quiet=True)):
        with pytest.raises(UserError) as error:
            use(directory)
        (line,) = error.value.lines
        assert message in line
        assert "\n" not in line


EXTENSIONS = {
    "at the end": {"pad_token": {"content": "<pad>"}},
    "an ordinary entry": {"eos_token": "the"},
    "a list": {"additional_special_tokens": ["<new>"]},
    "an ordinary entry in a list": {"additional_special_tokens": [{"content": "the"}]},
    "by names": {"extra_special_tokens": {"image": "<new>"}},
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_tokenizer_that_its_configuration_extends(tmp_path: Path, small: Path, name: str) -> None:
    """transformers, and so NeMo, would give such tokens ids that tokenizer.json does not."""
    (tmp_path / "tokenizer.json").write_bytes((small / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(EXTENSIONS[name]))
    source = write_lines(tmp_path / "in.json", TEXTS)
    with pytest.raises(UserError, match=r"names '(<pad>|the|<new>)' as a special token, which is not among"):
        tokenize([source], tmp_path / "out", tmp_path, quiet=True)


def test_no_end_of_text(tmp_path: Path, small: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((small / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    source = write_lines(tmp_path / "in.json", TEXTS)
    with pytest.raises(UserError, match="no end-of-text token"):
        tokenize([source], tmp_path / "out", tmp_path, append_eod=True, quiet=True)


@pytest.mark.parametrize(
    "config",
    ["[]", '"x"', "null", '{"added_tokens_decoder": []}', '{"added_tokens_decoder": {"x": {}}}', '{"eos_token": {}}'],
)
def test_configuration_of_no_tokenizer(tmp_path: Path, small: Path, config: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes((small / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(config)
    source = write_lines(tmp_path / "in.json", TEXTS)
    with pytest.raises(UserError, match=r"tokenizer_config\.json: not of the format") as error:
        tokenize([source], tmp_path / "out", tmp_path, quiet=True)
    assert len(error.value.lines) == 1


def test_vocabulary_size(small: Path, large: Path) -> None:
    for directory in (small, large):
        assert (
            vocabulary_size(directory)
            == ExactEncoder(directory).vocabulary
            == ExactEncoder(directory).ids
            == len(huggingface(directory))
        )
