"""tokenize on awkward sizes, with kills and reruns, and from the command line; the ids equal transformers'."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import gigatoken
import psutil
import pytest
from tokenized_texts import ENDINGS, TEXTS, content, run, text_to_ids, theirs, write

from llama31.common.errors import UserError
from llama31.corpus import documents
from llama31.corpus.consolidate import merge_part
from llama31.corpus.tokenize import tokenize

pytestmark = pytest.mark.slow


def test_a_million_tiny_documents(tmp_path: Path, tokenizer_dir: Path) -> None:
    texts = ["a", "bc", "1", ""]
    source = write(tmp_path / "in.json.gz", texts * 250_000)
    found = tokenize([source], tmp_path / "ours", tokenizer_dir, quiet=True)
    assert found.documents == 750_000
    theirs(tmp_path / "theirs", [text_to_ids(tokenizer_dir, text) for text in texts if text] * 250_000)
    assert content(tmp_path / "ours") == content(tmp_path / "theirs")


def test_one_enormous_document(tmp_path: Path, tokenizer_dir: Path) -> None:
    """50 MB in one line. transformers would take 10 GB for it; but it is made of equal parts, and so are its ids."""
    part = "The quick brown fox, it's 1234567 o'clock.\n"
    ids = text_to_ids(tokenizer_dir, part)
    assert text_to_ids(tokenizer_dir, part * 3) == ids * 3
    count = 50_000_000 // len(part)
    source = write(tmp_path / "in.json", ["before", part * count, "after"])
    tokenize([source], tmp_path / "ours", tokenizer_dir, quiet=True)
    before, after = text_to_ids(tokenizer_dir, "before"), text_to_ids(tokenizer_dir, "after")
    theirs(tmp_path / "theirs", [before, ids * count, after])
    assert content(tmp_path / "ours") == content(tmp_path / "theirs")


def test_a_line_beyond_all_bounds(tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LINE_BYTES", 1 << 20)
    source = write(tmp_path / "in.json.gz", ["fine", "a" * (9 << 20)])
    with pytest.raises(UserError, match=r"in\.json\.gz:2: a line of more than 1 MiB, the limit"):
        tokenize([source], tmp_path / "out", tokenizer_dir, quiet=True)


def test_shards_as_they_are_give_what_merging_first_gives(tmp_path: Path, tokenizer_dir: Path) -> None:
    c4 = tmp_path / "c4"
    c4.mkdir()
    shards = [write(c4 / f"c4-train.{768 + number:05}-of-01024.json.gz", TEXTS[number:]) for number in range(3)]
    merged = merge_part(c4, tmp_path, 6, [768, 769, 770])
    tokenize([merged], tmp_path / "one", tokenizer_dir, quiet=True)
    tokenize(shards, tmp_path / "other", tokenizer_dir, quiet=True)
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_threads(tmp_path: Path, tokenizer_dir: Path) -> None:
    """Any number of threads gives the same bytes; and the figures go to stderr."""
    source = write(tmp_path / "in put.json", [f"{text} {number}" for number in range(3000) for text in TEXTS])
    for threads in (1, 2, 5):
        arguments = [
            f"--output-prefix={tmp_path}/out {threads}",
            f"--tokenizer={tokenizer_dir}",
            f"--threads={threads}",
        ]
        done = run(f"--input={source}", *arguments)
        assert (done.returncode, done.stdout) == (0, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{tmp_path}/out {threads}: 12,000 documents, ")
        assert content(tmp_path / f"out {threads}") == content(tmp_path / "out 1")


def test_long_text_for_the_slow_library(
    tmp_path: Path, tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gigatoken.Tokenizer, "encode_batch", lambda *_, **__: None)
    source = write(tmp_path / "in.json", ["a", "b" * (5 << 20)])
    with pytest.raises(UserError, match=r"in\.json:2: a text of 5,242,880 characters; .* at most 4,194,304"):
        tokenize([source], tmp_path / "out", tokenizer_dir, quiet=True)


def test_no_process_is_left_by_a_kill(tmp_path: Path, tokenizer_dir: Path) -> None:
    """The process that reads ends when its pipe breaks; the next call resumes or starts over, with the same output."""
    source = write(tmp_path / "in.json", TEXTS * 100_000)
    prefix = tmp_path / "out"
    arguments = [f"--input={source}", f"--output-prefix={prefix}", f"--tokenizer={tokenizer_dir}"]
    with subprocess.Popen([sys.executable, "-m", "llama31", "tokenize", *arguments]) as process:
        readers: list[psutil.Process] = []
        while not readers:
            readers = psutil.Process(process.pid).children()
        process.kill()
    psutil.wait_procs(readers)
    assert run(*arguments).returncode == 0
    assert tokenize([source], prefix, tokenizer_dir, quiet=True).documents == 300_000


@pytest.mark.parametrize("prefix", [".", "/", "..", "a/.."])
def test_prefix_without_a_name(tmp_path: Path, tokenizer_dir: Path, prefix: str) -> None:
    source = write(tmp_path / "in.json", TEXTS)
    with pytest.raises(UserError, match="a directory; add a name"):
        tokenize([source], prefix, tokenizer_dir, quiet=True)


@pytest.mark.parametrize("ending", ENDINGS)
def test_prefix_with_the_ending_of_its_files(tmp_path: Path, tokenizer_dir: Path, ending: str) -> None:
    source, prefix = write(tmp_path / "in.json", TEXTS), tmp_path / "c4.en"
    with pytest.raises(UserError) as error:
        tokenize([source], f"{prefix}{ending}", tokenizer_dir, quiet=True)
    line = f"{prefix}{ending}: not the prefix of a token file; omit the extension: {prefix}"
    assert error.value.lines == [line]


def test_no_permission_to_read(tmp_path: Path, tokenizer_dir: Path) -> None:
    source = write(tmp_path / "in.json", TEXTS)
    source.chmod(0)
    # root may read everything, unless it gives up the capabilities for that
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    arguments = [f"--input={source}", f"--output-prefix={tmp_path}/out", f"--tokenizer={tokenizer_dir}"]
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "llama31", "tokenize", *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Invalid value for '--input': path '{source}' is not readable.\n"


def test_progress_on_a_terminal(tmp_path: Path, tokenizer_dir: Path) -> None:
    """A line with rate, time left, documents and tokens, cleared at the end; then the figures."""
    source = write(tmp_path / "in.json", TEXTS * 60_000)
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, "-m", "llama31", "tokenize", f"--input={source}", f"--output-prefix={tmp_path}/out"]
    with subprocess.Popen([*command, f"--tokenizer={tokenizer_dir}"], stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        try:
            while data := os.read(ours, 1 << 16):
                shown += data
        except OSError:  # the terminal's end was closed
            pass
        os.close(ours)
    assert process.returncode == 0
    *states, figures = shown.decode().replace("\r\n", "\r").strip("\r").split("\r")
    assert re.search(
        r"tokenize: +[0-9]+%.*[0-9.]+[kM]/[0-9.]+M \[.*<.*MB/s, [0-9,]+ documents, [0-9,]+ tokens\]", "\n".join(states)
    )
    assert "180,000 documents" in figures
