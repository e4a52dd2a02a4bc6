"""The demo's data, made by the documented commands from the docstrings of one package."""

import ast
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPOSITORY

from dev import demo_corpus, demo_tokenizer, prepare_demo
from llama31 import rules
from llama31.common.errors import UserError
from llama31.corpus.parts import part_shards
from llama31.data import token_manifest
from llama31.data.token_file import summary

pytestmark = pytest.mark.slow

PACKAGES = ("scikit-learn",)
VALIDATION_DOCUMENTS = 20


STEPS = re.compile(r"export C4_PATH|bash utils/(parallel_|cons|pre)|source .*\npython3 -m llama31 verify")
DIRECTORIES = ("c4", "merged", "tokenizer", "preprocessed")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "with a space"
    prepare_demo.prepare(root, VALIDATION_DOCUMENTS, PACKAGES)
    return root


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def records(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_shape_is_c4s(demo: Path) -> None:
    shards = [shard for part in rules.BENCHMARK_PARTS for shard in part_shards(part)]
    names = {*map(rules.train_shard_name, shards), *map(rules.validation_shard_name, range(rules.VALIDATION_SHARDS))}
    assert {path.name for path in (demo / "c4").iterdir()} == names
    for name in names:
        for record in records(demo / "c4" / name):
            assert list(record) == ["text", "timestamp", "url"]
            assert record["timestamp"].startswith("2019-04-")
            assert len(record["timestamp"]) == len("2019-04-25T12:57:54Z")
            assert record["url"].startswith("pypi://scikit-learn/sklearn/")
            assert len(record["text"]) > demo_corpus.MIN_CHARACTERS


def test_no_text_twice(demo: Path) -> None:
    texts = [record["text"] for path in (demo / "c4").glob("*.json.gz") for record in records(path)]
    assert len(texts) == len(set(texts)) > 1000
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
        demo_corpus.package_versions(("scikit-learn", "no-such-thing", "nor-this"))
    assert [line.split()[1] for line in error.value.lines] == ["no-such-thing", "nor-this"]


def test_done_is_skipped(demo: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = times(demo)
    prepare_demo.prepare(demo, VALIDATION_DOCUMENTS, PACKAGES)
    assert times(demo) == before
    output, errors = capfd.readouterr()
    assert output.count(": exists\n") == 2  # c4 and tokenizer
    assert "all 264 files are compressed" in output
    assert errors.count(": exists, made from the same inputs") == 3  # token files


def test_what_is_missing_is_made_again(demo: Path) -> None:
    """As after a kill: what is whole stays, the rest is made with the same bytes."""
    before = {name: contents(demo / name) for name in DIRECTORIES}
    shard = demo / "c4" / rules.train_shard_name(800)
    written = shard.stat().st_mtime_ns
    (demo / "tokenizer").rename(demo / "tokenizer.partial")
    for end in (".bin", ".idx", ".manifest.json"):
        name = rules.token_file_name(rules.validation_name(VALIDATION_DOCUMENTS))
        (demo / "preprocessed" / f"{name}{end}").unlink()
    prepare_demo.prepare(demo, VALIDATION_DOCUMENTS, PACKAGES)
    assert {name: contents(demo / name) for name in DIRECTORIES} == before
    assert shard.stat().st_mtime_ns == written
    assert sorted(path.name for path in demo.iterdir()) == sorted([*DIRECTORIES, prepare_demo.MADE_FROM])


def test_other_versions_data_is_replaced(demo: Path) -> None:
    """And gives the same bytes as before, in another process with other hashes of its strings."""
    before = {name: contents(demo / name) for name in DIRECTORIES}
    stamp = demo / prepare_demo.MADE_FROM
    made_from = stamp.read_text()
    stamp.write_text(made_from.replace('"scikit-learn": "', '"scikit-learn": "0.'))
    for name in DIRECTORIES:
        next((demo / name).iterdir()).write_bytes(b"of another version")
    code = (
        "from pathlib import Path; from dev import prepare_demo; "
        f"prepare_demo.prepare(Path({str(demo)!r}), {VALIDATION_DOCUMENTS}, {PACKAGES})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "making it again" in done.stdout
    assert {name: contents(demo / name) for name in DIRECTORIES} == before
    assert stamp.read_text() == made_from


def test_data_of_others_is_kept(tmp_path: Path) -> None:
    (tmp_path / "c4").mkdir()
    with pytest.raises(UserError, match=r"has data but no made_from\.json"):
        prepare_demo.prepare(tmp_path, VALIDATION_DOCUMENTS, PACKAGES)
    assert list(tmp_path.rglob("*")) == [tmp_path / "c4"]


def test_a_command_that_fails_ends_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^bash utils/consolidate_data\.sh: exit code 2$"):
        prepare_demo.prepare(tmp_path / "demo", 10**6, PACKAGES)
    assert "needs 1,000,000" in capfd.readouterr().err
    assert not (tmp_path / "demo" / "tokenizer").exists()


def test_token_files_are_the_benchmarks_names(demo: Path) -> None:
    preprocessed = demo / "preprocessed"
    for part in rules.BENCHMARK_PARTS:
        found = summary(preprocessed / rules.token_file_name(rules.train_part_name(part)))
        assert found.documents == len(records(demo / "merged" / f"{rules.train_part_name(part)}.json.gz"))
    prefix = preprocessed / rules.token_file_name(rules.validation_name(VALIDATION_DOCUMENTS))
    assert summary(prefix).documents == VALIDATION_DOCUMENTS
    facts = token_manifest.read(prefix)
    assert facts is not None
    assert facts.vocabulary_size == demo_tokenizer.VOCABULARY


def test_documented_commands_make_the_same_files(demo: Path, tmp_path: Path) -> None:
    """Run the blocks of docs/data.md that need neither network nor Slurm, in order, with other directories."""
    text = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S)
    script = "".join(block for block in blocks if STEPS.match(block))
    script = script.replace("source .venv/bin/activate\n", "").replace("python3 ", f"{shlex.quote(sys.executable)} ")
    script = script.replace(f"={rules.VALIDATION_DOCUMENTS} ", f"={VALIDATION_DOCUMENTS} ")
    script = re.sub(r"=/data/(\w+)", rf"={shlex.quote(str(tmp_path))}/\1", script)
    assert len(re.findall(r"^bash utils/|-m llama31 verify ", script, re.M)) == 4
    (tmp_path / "c4").mkdir()
    for path in (demo / "c4").iterdir():
        (tmp_path / "c4" / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))
    shutil.copytree(demo / "tokenizer", tmp_path / "tokenizer")
    environment = {**os.environ, "LLAMA31_VENV": sys.prefix}
    done = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in DIRECTORIES:
        assert contents(tmp_path / name) == contents(demo / name)


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
