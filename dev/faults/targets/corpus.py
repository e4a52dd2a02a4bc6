"""Targets that prepare data: compress, consolidate, tokenize, verify, index, download."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dev.faults import inputs
from dev.faults.target import Target, files_of
from dev.faults.targets.commands import llama31, without_seconds
from dev.support.file_server import running
from dev.support.runs import arguments
from llama31 import rules

JOURNAL = ".downloaded.json"  # has times
PORT = "18731"  # of the download's server; part of the URL, which is part of the result
FILES = {
    "a/one.bin": random.Random(1).randbytes(300_000),
    "a/two.idx": random.Random(2).randbytes(1234),
    "LICENSE.txt": b"licence\n",
}


def _compress_inputs(directory: Path) -> None:
    for shard in range(3):
        name = rules.train_shard_name(shard).removesuffix(".gz")
        inputs.write(directory / "c4" / name, inputs.lines(inputs.texts()[shard * 50 : shard * 50 + 50]))
    inputs.write(directory / "c4" / "other.json", b"{}\n")


def _tokenize_inputs(directory: Path) -> None:
    inputs.tokenizer(directory)
    inputs.write(directory / "1.jsonl", inputs.lines(inputs.texts()[:200]))
    inputs.write(directory / "2.jsonl", inputs.lines(inputs.texts()[200:]))


def _tokenize(directory: Path) -> Sequence[str]:
    given = [f"--input={directory / name}" for name in ("1.jsonl", "2.jsonl")]
    return llama31("tokenize", *given, f"--output-prefix={directory}/out/data", f"--tokenizer={directory}/tokenizer")


@contextmanager
def _server(_: Path) -> Iterator[None]:
    with running(port=int(PORT)) as server:
        server.publish("set", FILES)
        server.cuts = [200_000]
        yield


CORPUS = [
    Target("compress", _compress_inputs, lambda work: llama31("compress", work / "c4", "--jobs=2")),
    Target(
        "consolidate",
        lambda directory: inputs.shards(directory / "c4"),
        lambda work: llama31("consolidate", work / "c4", work / "merged", f"--parts={inputs.PART}", "--samples=40"),
    ),
    Target("tokenize", _tokenize_inputs, _tokenize),
    Target(
        "verify",
        inputs.token_files,
        lambda work: llama31("verify", work / inputs.PREPROCESSED, "--tokenizer", work / inputs.TOKENIZER, "--head=2"),
        codes_of_defects=frozenset({1}),
        output=without_seconds,
    ),
    Target(
        "index",
        inputs.token_files,
        lambda work: llama31("index", *arguments(inputs.run_settings(work))),
        may_remain=r"\.partial-|\.damaged-",  # another builder may be running; removed after an hour
        timeout=120,
    ),
    Target(
        "download",
        lambda directory: (directory / "data").mkdir(),
        lambda work: llama31("download", f"http://127.0.0.1:{PORT}/metadata/set.uri", work / "data"),
        view=lambda work: {name: content for name, content in files_of(work).items() if not name.endswith(JOURNAL)},
        beside=_server,
        timeout=180,
    ),
]
