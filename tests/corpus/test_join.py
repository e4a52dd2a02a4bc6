"""Parts made from their shards: FROM_SHARDS=1 of utils/preprocess.sh, files that it keeps, resuming after a kill."""

import fcntl
import gzip
import json
import os
import pty
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from llama31 import rules
from llama31.common.errors import UserError
from llama31.corpus import consolidate, join, preprocess, token_writer, tokenize_checkpoint
from llama31.corpus.preprocess import Work, finish, from_merged, from_shards
from llama31.corpus.tokenize import tokenize
from llama31.corpus.tokenize_checkpoint import TokenizeCheckpoint

pytestmark = pytest.mark.slow

SAMPLE = 20
SHARDS = (768, 769, 770)  # of the 128 of part 6
NAME = rules.token_file_name(rules.train_part_name(6))
ENDINGS = (".bin", ".idx", ".manifest.json")


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("of") / "tokenizer")


class Corpus:
    """Part 6 as three shards, and a validation set."""

    def __init__(self, root: Path, tokenizer_dir: Path):
        self.root = root
        self.tokenizer_dir = tokenizer_dir
        self.prefix = root / "preprocessed" / NAME
        for directory in ("c4", "merged"):
            (root / directory).mkdir()
        texts = tiny.texts()
        for number, shard in enumerate(SHARDS):
            self._write(root / "c4" / rules.train_shard_name(shard), texts[number::3])
        self._write(root / "merged" / f"{rules.validation_name(SAMPLE)}.json.gz", texts[:SAMPLE])

    def _write(self, path: Path, texts: list[str]) -> None:
        path.write_bytes(gzip.compress(b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)))

    @property
    def pieces(self) -> list[str]:
        return sorted(path.name for path in (self.prefix.parent / "shards").glob("*.bin"))

    def work(self) -> Work:
        merged = from_merged(self.root / "merged", self.root / "preprocessed", [6], SAMPLE)
        return from_shards(merged, self.root / "c4", [6], self.tokenizer_dir)

    def run(self) -> str:
        """Do what `preprocess --shards` does, tokenising in this process."""
        work = self.work()
        for task in work.tasks:
            tokenize([task.source], task.prefix, self.tokenizer_dir, quiet=True)
        return finish(work, jobs=1)

    def files(self) -> dict[str, bytes]:
        """The part's token file and all files of its prefix."""
        return {path.name.removeprefix(NAME): path.read_bytes() for path in self.prefix.parent.glob(f"{NAME}*")}

    def inputs(self) -> list[Path]:
        return [self.root / "c4" / rules.train_shard_name(shard) for shard in SHARDS]


@pytest.fixture
def corpus(tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    def shards(c4_dir: Path, part: int) -> list[Path]:
        return consolidate.train_shards(c4_dir, part, SHARDS)

    monkeypatch.setattr(preprocess, "train_shards", shards)
    return Corpus(tmp_path, tokenizer_dir)


@pytest.fixture
def wanted(corpus: Corpus, tmp_path: Path) -> dict[str, bytes]:
    """Result of tokenising the shards as one file."""
    tokenize(corpus.inputs(), tmp_path / "wanted", corpus.tokenizer_dir, quiet=True)
    return {ending: Path(f"{tmp_path}/wanted{ending}").read_bytes() for ending in ENDINGS}


def test_joined_once(corpus: Corpus, wanted: dict[str, bytes]) -> None:
    """The manifest too is that of one run; then nothing is left to do."""
    assert corpus.run().startswith("2 token files done: ")
    assert corpus.files() == wanted
    assert not corpus.pieces
    assert [task.prefix.name for task in corpus.work().tasks] == [rules.token_file_name(rules.validation_name(SAMPLE))]
    written = corpus.prefix.with_name(f"{NAME}.bin").stat().st_ino
    tokenize_checkpoint.store(
        corpus.prefix, TokenizeCheckpoint(corpus.work().parts[0].job.identity, "")
    )  # of one killed at its end
    corpus.run()
    assert corpus.files() == wanted
    assert corpus.prefix.with_name(f"{NAME}.bin").stat().st_ino == written


def refused(corpus: Corpus, *words: str) -> None:
    """The part's files stay as they are, and the shards' are not removed."""
    before, pieces = corpus.files(), corpus.pieces
    with pytest.raises(UserError) as error:
        corpus.run()
    (line,) = error.value.lines
    assert all(word in line for word in words), line
    assert (corpus.files(), corpus.pieces) == (before, pieces)


def test_downloaded_token_file_is_kept(corpus: Corpus) -> None:
    tiny.write_tokens(corpus.prefix, [[1, 2, 3]])
    refused(corpus, f"{corpus.prefix}.bin: exists without a manifest; remove it")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda it: tokenize(it.inputs()[:2], it.prefix, it.tokenizer_dir, quiet=True), "made with inputs="),
        (
            lambda it: tokenize(it.inputs(), it.prefix, it.tokenizer_dir, append_eod=True, quiet=True),
            "made with append_eod=True, now False",
        ),
        (
            lambda it: tokenize(
                it.inputs(), it.prefix, tiny.make_tokenizer(it.root / "other", vocabulary=400), quiet=True
            ),
            "made with tokenizer_sha256=",
        ),
    ],
    ids=["inputs", "end of text", "tokenizer"],
)
def test_token_file_of_other_options_is_kept(make: Callable[[Corpus], object], words: str, corpus: Corpus) -> None:
    make(corpus)
    refused(corpus, f"{corpus.prefix}.manifest.json: ", words, "remove it")


def test_token_file_written_by_another_run_is_kept(corpus: Corpus) -> None:
    work = corpus.work()
    for task in work.tasks:
        tokenize([task.source], task.prefix, corpus.tokenizer_dir, quiet=True)
    tiny.write_tokens(corpus.prefix, [[1, 2, 3]])
    before = corpus.files()
    with pytest.raises(UserError, match="exists without a manifest"):
        finish(work, jobs=1)
    assert corpus.files() == before
    assert len(corpus.pieces) == 3


def test_shard_made_otherwise(corpus: Corpus) -> None:
    work = corpus.work()
    for number, task in enumerate(work.tasks):
        tokenize([task.source], task.prefix, corpus.tokenizer_dir, append_eod=number == 2, quiet=True)
    with pytest.raises(UserError, match=r"00769.*manifest\.json: made with append_eod=True, now False; remove"):
        finish(work, jobs=1)
    assert not corpus.files()


def test_removed_without_its_manifest_is_joined_again(corpus: Corpus, wanted: dict[str, bytes]) -> None:
    """The shards' token files are not removed before."""
    work = corpus.work()
    for task in work.tasks:
        tokenize([task.source], task.prefix, corpus.tokenizer_dir, quiet=True)
    corpus.prefix.with_name(f"{NAME}.manifest.json").write_bytes(wanted[".manifest.json"])
    finish(corpus.work(), jobs=1)
    assert corpus.files() == wanted


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_while_joining(
    renames: int, corpus: Corpus, wanted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, between and after the renames of .bin and .idx."""
    publish, left = token_writer.publish, [renames]

    def ended(partial: Path, path: Path) -> None:
        if path.name.startswith(NAME):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        publish(partial, path)
        if renames == 2 and path.name == f"{NAME}.idx":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(token_writer, "publish", ended)
        with pytest.raises(KeyboardInterrupt):
            corpus.run()
    assert len(corpus.pieces) == 3
    assert ".manifest.json" not in corpus.files()
    corpus.run()
    assert corpus.files() == wanted
    assert not corpus.pieces


def test_bad_lines_of_all_shards_count_together(corpus: Corpus) -> None:
    for shard, bad in zip(corpus.inputs(), (1, 0, 2), strict=True):
        shard.write_bytes(gzip.compress(b"bad\n" * bad) + shard.read_bytes())

    def work(limit: int) -> Work:
        merged = from_merged(corpus.root / "merged", corpus.root / "preprocessed", [6], SAMPLE)
        return from_shards(merged, corpus.root / "c4", [6], corpus.tokenizer_dir, limit)

    for task in work(2).tasks:
        tokenize([task.source], task.prefix, corpus.tokenizer_dir, bad_line_limit=2, quiet=True)
    with pytest.raises(UserError, match=r"3 bad lines were skipped, now --bad-line-limit=2; .*limit=3 accepts that"):
        finish(work(2), jobs=1)
    assert len(corpus.pieces) == 3
    finish(work(3), jobs=1)
    tokenize(corpus.inputs(), corpus.root / "wanted", corpus.tokenizer_dir, bad_line_limit=3, quiet=True)
    assert corpus.files() == {ending: Path(f"{corpus.root}/wanted{ending}").read_bytes() for ending in ENDINGS}
    assert b'"skipped_lines": 3' in corpus.files()[".manifest.json"]


def test_shards_of_another_numbering(corpus: Corpus) -> None:
    for shard in corpus.inputs():
        shard.rename(shard.with_name(shard.name.replace("of-01024", "of-00512")))
    with pytest.raises(UserError, match=r"c4: shards are numbered differently \(c4-train\.00768-of-00512"):
        corpus.work()


def test_missing_shards_are_all_named(corpus: Corpus) -> None:
    for shard in corpus.inputs()[1:]:
        shard.unlink()
    with pytest.raises(UserError) as error:
        corpus.work()
    assert error.value.lines == [f"{shard}: no such file" for shard in corpus.inputs()[1:]]


def test_progress_on_a_terminal(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    work = corpus.work()
    for task in work.tasks:
        tokenize([task.source], task.prefix, corpus.tokenizer_dir, quiet=True)
    total = join.size(work.parts[0].pieces)
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with open(terminal, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        finish(work, jobs=1)
        stderr.flush()
        shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "join" in shown and f"/{total / 1000:.3g}k" in shown.replace(".0k", "k"), shown
