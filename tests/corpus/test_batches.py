"""Reading in a process of its own: the same batches and errors as in this one, and it ends when it should."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tokenized_texts import TEXTS, content, write

from llama31.common.errors import UserError
from llama31.corpus import batches, reference
from llama31.corpus.batches import Batch, Batches, Reading
from llama31.corpus.documents import START, InputChanged
from llama31.corpus.encoder import ExactEncoder
from llama31.corpus.records import NOTHING_SKIPPED
from llama31.corpus.texts import SEPARATOR, too_long
from llama31.corpus.tokenize import tokenize

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SMALL_BYTES", 0)


def reading(*inputs: Path, batch_bytes: int = 4_000) -> Reading:
    return Reading(inputs, "text", 0, too_long, START, NOTHING_SKIPPED, batch_bytes)


def facts(batch: Batch) -> tuple[Any, ...]:
    texts, known, skipped, position = batch
    ids = [(list(each.numbers), *(part.tolist() for part in each.encoded)) for each in (known.ambiguous, known.sample)]
    return texts.joined, texts.lengths.tolist(), texts.unassigned, ids, skipped, position


def text_of(found: list[tuple[Any, ...]]) -> bytes:
    return SEPARATOR.join(batch[0] for batch in found)


def in_this_process(what: Reading) -> Iterator[Batch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "SMALL_BYTES", 1 << 30)
        opened = Batches(what)
    with opened:
        if what.reference_dir:
            opened.facts()
        yield from opened


def process_of(opened: Batches) -> psutil.Process:
    assert opened._process
    return psutil.Process(opened._process.pid)


def test_the_same_batches(tmp_path: Path) -> None:
    texts = [*TEXTS, "\ua7ce, assigned since Unicode 16"] * 1000
    what = reading(write(tmp_path / "1.json.gz", texts), write(tmp_path / "2.json", TEXTS))
    with Batches(what) as opened:
        process = process_of(opened)
        found = [facts(batch) for batch in opened]
    assert found == [facts(batch) for batch in in_this_process(what)]
    assert len(found) > 10
    assert not process.is_running()
    with Batches(replace(what, position=found[7][-1])) as opened:
        rest = [facts(batch) for batch in opened]  # other blocks: decompression begins elsewhere
    assert text_of(rest) == text_of(found[8:])
    assert rest[-1][-1] == found[-1][-1]


def test_the_same_ids_of_the_exact_library(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "CHECK_EVERY", 500)
    texts = [*TEXTS, "\ua7ce, assigned since Unicode 16"] * 500
    what = replace(reading(write(tmp_path / "in.json", texts)), reference_dir=tokenizer_dir)
    with Batches(what) as opened:
        said = opened.facts()
        found = list(opened)
    assert said.expected[0].tolist() == ExactEncoder(tokenizer_dir).encode_list(said.probes)[0].tolist()
    assert [facts(batch) for batch in found] == [facts(batch) for batch in in_this_process(what)]
    checked = 0
    for joined, known, *_ in found:
        assert known.ambiguous.numbers == joined.ambiguous()
        checked += len(known.sample.numbers)
        for of in (known.ambiguous, known.sample):
            expected = ExactEncoder(tokenizer_dir).encode_list(joined.at(of.numbers))
            assert [part.tolist() for part in of.encoded] == [part.tolist() for part in expected]
    assert checked == 4  # of 2,000 texts that are not empty


def test_errors_are_the_same(tmp_path: Path) -> None:
    source = write(tmp_path / "in.json", TEXTS * 1000)
    what = reading(source)
    reached = next(in_this_process(what))[-1]
    source.write_bytes(source.read_bytes() + b"no\n")
    with Batches(what) as opened, pytest.raises(UserError, match=r"in\.json:4001: not JSON") as error:
        list(opened)
    assert len(error.value.lines) == 1
    source.write_bytes(source.read_bytes().replace(b"first", b"worst"))
    with Batches(replace(what, position=reached)) as opened, pytest.raises(InputChanged, match="changed since"):
        list(opened)


def test_it_is_killed(tmp_path: Path) -> None:
    source = write(tmp_path / "in.json", TEXTS * 20_000)
    with Batches(reading(source)) as opened:
        process_of(opened).kill()
        with pytest.raises(UserError, match=r"in\.json: the process that reads it ended, exit code -9"):
            list(opened)


@pytest.mark.parametrize("taken", [0, 1])
def test_it_ends_with_the_context(tmp_path: Path, taken: int) -> None:
    with Batches(reading(write(tmp_path / "in.json", TEXTS * 20_000))) as opened:
        process = process_of(opened)
        for _ in range(taken):
            next(iter(opened))
    assert not process.is_running()


def test_tokenize_with_either(tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.json.gz", TEXTS * 1000)
    tokenize([source], tmp_path / "another", tokenizer_dir, quiet=True)
    monkeypatch.setattr(batches, "SMALL_BYTES", 1 << 30)
    tokenize([source], tmp_path / "this", tokenizer_dir, quiet=True)
    assert content(tmp_path / "another") == content(tmp_path / "this")
