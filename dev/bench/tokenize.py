"""Measure speed and memory of `python3 -m llama31 tokenize`, compared with Megatron-LM's tools/preprocess_data.py.

    python3 -m dev.bench.tokenize DIRECTORY [--megabytes 787] [--repeats 1] [--large-megabytes 2000]

Makes a json.gz corpus from the docstrings of all installed packages, repeated to the size of one of C4's shards, and
trains a tokenizer like Llama 3's with 128,000 entries on it (both are kept in DIRECTORY; about 2 minutes). Then runs in
turns on the same file:

    peer   a pool of 2 worker processes, which get 32 lines of JSON at a time and tokenize one text at a time with
           transformers; the parent adds the ids to Megatron's IndexedDatasetBuilder
    ours   the command as a user runs it, including its start

Both must write the same bytes. Prints rates in MB/s of JSON, the ratio of the medians, the share of each step of ours
on one thread, and peak memory and time per document as the input grows to --large-megabytes of JSON.
"""

import gzip
import json
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypeVar

import orjson
from isal import igzip

from dev import demo_corpus, demo_tokenizer
from dev.bench import harness
from dev.bench.harness import Column
from llama31.common.files import atomic_writer
from llama31.common.parallel import cores
from llama31.corpus import documents, records
from llama31.corpus.encoder import ExactEncoder, use_threads
from llama31.corpus.fast_encoder import FastEncoder
from llama31.corpus.records import NOTHING_SKIPPED
from llama31.corpus.reference import TokenizerReference
from llama31.corpus.token_writer import TokenWriter
from llama31.corpus.tokenize import as_bytes
from llama31.data.token_file import TokenType, summary

VOCABULARY = 128_000
WORKERS = THREADS = 2
CHUNK = 32  # lines per task of a worker
WORST_BYTES = 50_000_000  # of one document
ENDINGS = (".bin", ".idx")
GROWTH = harness.Table(
    Column("MB of JSON", 10, "{:.0f}"),
    Column("documents", 11, "{:,}"),
    Column("us per document", 17, "{:.1f}"),
    Column("peak MB", 9, "{:.0f}"),
)

T = TypeVar("T")


def texts() -> Iterator[str]:
    """Yield the distinct docstrings of all installed packages."""
    seen: set[str] = set()
    for package in sorted({distribution.metadata["Name"] for distribution in distributions()}):
        for _, path in demo_corpus.source_files(package):
            for text in demo_corpus.docstrings(path.read_bytes()) if path.is_file() else ():
                if len(text) > demo_corpus.MIN_CHARACTERS and text not in seen:
                    seen.add(text)
                    yield text


def write_corpus(path: Path, megabytes: float) -> None:
    """Write a json.gz with about this many MB of JSON, repeating the texts if necessary."""
    lines = [orjson.dumps({"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "u"}) + b"\n" for text in texts()]
    size = 0
    with atomic_writer(path) as file, igzip.IGzipFile(fileobj=file, mode="wb", compresslevel=2) as compressed:
        while size < megabytes * 1e6:
            for line in lines:
                compressed.write(line)
                size += len(line)
                if size >= megabytes * 1e6:
                    break


class Worker:
    """State of each process of the peer's pool."""

    tokenizer: Any = None

    @classmethod
    def start(cls, tokenizer_dir: Path) -> None:
        """Load the tokenizer."""
        from transformers import AutoTokenizer

        cls.tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True, trust_remote_code=False)

    @classmethod
    def ids(cls, line: bytes) -> list[int]:
        """Return the ids of a record's text as NeMo's AutoTokenizer.text_to_ids does."""
        ids: list[int] = cls.tokenizer.convert_tokens_to_ids(cls.tokenizer.tokenize(json.loads(line)["text"]))
        return ids


def peer(source: Path, prefix: Path, tokenizer_dir: Path) -> None:
    """Tokenize as Megatron-LM's tool does."""
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(ExactEncoder(tokenizer_dir).vocabulary))
    pool = multiprocessing.get_context("spawn").Pool(WORKERS, Worker.start, (tokenizer_dir,))
    with pool, gzip.open(source, "rb") as lines:
        for ids in pool.imap(Worker.ids, lines, CHUNK):
            if ids:
                builder.add_document(torch.IntTensor(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")


def ours(source: Path, prefix: Path, tokenizer_dir: Path) -> float:
    """Run the command; return its peak memory in MB."""
    for ending in (*ENDINGS, ".manifest.json"):
        Path(f"{prefix}{ending}").unlink(missing_ok=True)
    command = [sys.executable, "-m", "llama31", "tokenize", f"--input={source}", f"--output-prefix={prefix}"]
    command += [f"--tokenizer={tokenizer_dir}", f"--threads={THREADS}"]
    return harness.measured(command)[2] / 1e6


def timed(work: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    """Call `work`; return its seconds and its result."""
    began = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - began, result


def steps(source: Path, prefix: Path, tokenizer_dir: Path) -> dict[str, float]:
    """Return the seconds of each step of ours, run on one thread."""
    reference = TokenizerReference(tokenizer_dir)
    fast = FastEncoder(tokenizer_dir, lambda: reference.facts(source, "text", 0))
    token_type = fast.limits.token_type
    seconds: Counter[str] = Counter()

    def step(name: str, work: Callable[..., T], *arguments: Any) -> T:
        lap, result = timed(work, *arguments)
        seconds[name] += lap
        return result

    blocks = documents.blocks(source)
    with TokenWriter(prefix, token_type) as writer:
        while block := step("gunzip, hash", next, blocks, None):
            texts, _ = step("parse", records.texts, block, "text", fast.refusal, NOTHING_SKIPPED, 0)
            known = step("sample", reference.known, [texts])
            ids, lengths = step("encode, compare", fast.encode, texts, known)
            step("hash, write", writer.write, as_bytes(ids, token_type), as_bytes(lengths, TokenType.int32))
    return seconds


def compare(directory: Path, tokenizer_dir: Path, megabytes: float, repeats: int) -> None:
    """Compare speed and output of both."""
    source = corpus(directory, megabytes)
    size = json_bytes(source) / 1e6
    measures = {
        "peer": lambda: timed(peer, source, directory / "peer", tokenizer_dir)[0],
        "ours": lambda: timed(ours, source, directory / "ours", tokenizer_dir)[0],
    }

    def show(number: int, seconds: dict[str, float]) -> None:
        print(f"round {number}: " + ", ".join(f"{name} {size / each:.1f} MB/s" for name, each in seconds.items()))

    times = harness.alternate(measures, repeats, each_round=show)
    for ending in ENDINGS:
        if Path(f"{directory}/peer{ending}").read_bytes() != Path(f"{directory}/ours{ending}").read_bytes():
            sys.exit(f"the {ending} files in {directory} differ")
    median = {name: statistics.median(each) for name, each in times.items()}
    print(f"{size:.0f} MB of JSON; .bin and .idx are equal. Medians of {repeats}:")
    print(f"  peer   {size / median['peer']:6.1f} MB/s   ({WORKERS} workers)")
    print(f"  ours   {size / median['ours']:6.1f} MB/s   ({THREADS} threads)")
    print(f"  ratio  {harness.ratio_of_medians(times['peer'], times['ours']):6.1f}")
    seconds = steps(source, directory / "steps", tokenizer_dir)
    total = sum(seconds.values())
    print(f"Shares of our work, on one thread {size / total:.0f} MB/s: ", end="")
    print(", ".join(f"{name} {100 * each / total:.0f}%" for name, each in seconds.items()))


def grow(directory: Path, tokenizer_dir: Path, megabytes: float) -> None:
    """Print time and memory of ours for growing inputs, and for one very long line."""
    print(GROWTH.head())
    sources = [corpus(directory, megabytes * share) for share in (0.25, 0.5, 1)]
    worst = directory / "worst.json"
    text = next(texts())
    worst.write_bytes(orjson.dumps({"text": text * (WORST_BYTES // len(text.encode()))}))
    for source in (*sources, worst):
        seconds, peak = timed(ours, source, directory / "ours", tokenizer_dir)
        count = summary(directory / "ours").documents
        print(GROWTH.row(json_bytes(source) / 1e6, count, 1e6 * seconds / count, peak))


def corpus(directory: Path, megabytes: float) -> Path:
    """Return the corpus with about this many MB of JSON, and make it unless it exists."""
    path = directory / f"{megabytes:.0f}-mb.json.gz"
    if not path.exists():
        print(f"making {path}", file=sys.stderr)
        write_corpus(path, megabytes)
    return path


def json_bytes(path: Path) -> int:
    """Return the size of the JSON in a file."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with igzip.open(path, "rb") as file:
        return sum(len(data) for data in iter(lambda: file.read(1 << 24), b""))


def main() -> None:
    """Run the bench."""
    parser = harness.parser(__doc__, directory=True)
    parser.add_argument("--megabytes", type=float, default=787)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--large-megabytes", type=float, default=2000)
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    use_threads(THREADS)
    tokenizer_dir = directory / "tokenizer"
    if not (tokenizer_dir / "tokenizer_config.json").exists():
        print(f"making {tokenizer_dir}", file=sys.stderr)
        demo_tokenizer.save(demo_tokenizer.train(texts(), VOCABULARY), tokenizer_dir)
    use_threads(1)
    print(f"{ExactEncoder(tokenizer_dir).vocabulary:,} entries, {cores()} cores")
    compare(directory, tokenizer_dir, arguments.megabytes, arguments.repeats)
    grow(directory, tokenizer_dir, arguments.large_megabytes)


if __name__ == "__main__":
    main()
