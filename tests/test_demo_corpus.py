"""The demo's corpus and tokenizer, from a small package."""

import ast
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev import demo_corpus, demo_tokenizer, prepare_demo
from llama31 import rules
from llama31.corpus import manifest
from llama31.corpus.token_file import summary
from llama31.errors import UserError

PACKAGES = ("torchmetrics",)
VALIDATION_DOCUMENTS = 20


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    prepare_demo.prepare(root, PACKAGES, VALIDATION_DOCUMENTS)
    return root


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def records(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_same_bytes_again(demo: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from dev import prepare_demo; "
        f"prepare_demo.prepare(Path({str(tmp_path)!r}), {PACKAGES}, {VALIDATION_DOCUMENTS})"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)
    for name in ("c4", "tokenizer", "merged", "preprocessed"):
        assert contents(demo / name) == contents(tmp_path / name)


def test_shape_is_c4s(demo: Path) -> None:
    names = {path.name for path in (demo / "c4").glob("*.json.gz")}
    assert len(names) == 14
    assert {rules.validation_shard_name(shard) for shard in range(8)} < names
    assert {rules.train_shard_name(shard) for shard in (768, 896)} < names
    for name in names:
        for record in records(demo / "c4" / name):
            assert list(record) == ["text", "timestamp", "url"]
            assert record["timestamp"].startswith("2019-04-")
            assert len(record["timestamp"]) == len("2019-04-25T12:57:54Z")
            assert record["url"].startswith("pypi://torchmetrics/torchmetrics/")
            assert len(record["text"]) > demo_corpus.MIN_CHARACTERS


def test_no_text_twice(demo: Path) -> None:
    texts = [record["text"] for path in (demo / "c4").glob("*.json.gz") for record in records(path)]
    assert len(texts) == len(set(texts)) > 500
    validation = [record for path in (demo / "c4").glob("c4-validation*") for record in records(path)]
    assert 0.03 < len(validation) / len(texts) < 0.07


def test_docstrings_are_pythons() -> None:
    source = Path(demo_corpus.__file__).read_bytes()
    tree = ast.parse(source)
    expected = [
        ast.get_docstring(node) for node in [tree, *tree.body] if isinstance(node, ast.Module | ast.FunctionDef)
    ]
    assert list(demo_corpus.docstrings(source)) == [text for text in expected if text]
    assert list(demo_corpus.docstrings(b"print 1")) == []


def test_missing_packages_are_all_named() -> None:
    with pytest.raises(UserError) as error:
        demo_corpus.package_versions(("torchmetrics", "no-such-thing", "nor-this"))
    assert [line.split()[1] for line in error.value.lines] == ["no-such-thing", "nor-this"]


def test_done_is_skipped(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    prepare_demo.prepare(demo, PACKAGES, VALIDATION_DOCUMENTS)
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before
    assert capsys.readouterr().out.count("is there") == 4


def test_token_files_are_the_benchmarks_names(demo: Path) -> None:
    preprocessed = demo / "preprocessed"
    for part in rules.BENCHMARK_PARTS:
        found = summary(preprocessed / rules.token_file_name(rules.train_part_name(part)))
        assert found.documents == len(records(demo / "merged" / f"{rules.train_part_name(part)}.json.gz"))
    prefix = preprocessed / rules.token_file_name(rules.validation_name(VALIDATION_DOCUMENTS))
    assert summary(prefix).documents == VALIDATION_DOCUMENTS
    facts = manifest.read(prefix)
    assert facts is not None
    assert facts.vocabulary_size == demo_tokenizer.VOCABULARY


def test_tokenizer_is_of_llama_3s_kind(demo: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo / "tokenizer", local_files_only=True)
    first = demo_tokenizer.VOCABULARY - len(demo_tokenizer.SPECIAL_TOKENS)
    assert len(tokenizer) == demo_tokenizer.VOCABULARY
    assert tokenizer.convert_tokens_to_ids(list(demo_tokenizer.SPECIAL_TOKENS)) == list(range(first, first + 16))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (first, first + 1)
    text = "Graphs: don't use 12345 nodes.\r\n\n  na\u00efve \U0001f600<|eot_id|>"
    ids = tokenizer(text).input_ids
    assert ids[0] == first
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) == text
