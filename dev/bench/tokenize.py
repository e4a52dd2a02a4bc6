"""Speed and memory of `python3 -m llama31 tokenize`, beside what Megatron-LM's tools/preprocess_data.py does.

    python3 -m dev.bench.tokenize DIRECTORY [--megabytes 787] [--repeats 1] [--large-megabytes 2000]

Makes a corpus of json.gz from the docstrings of all installed packages, repeated to the size of one of C4's shards, and
a tokenizer of Llama 3's kind with 128,000 entries learnt from them (both kept in DIRECTORY; about 2 minutes). Then, in
turns on the same file:

    peer   a pool of 2 worker processes; each takes lines of JSON, 32 at a time, and gives a text's ids by transformers'
           tokenizer, one text at a time; the parent adds them to Megatron's own IndexedDatasetBuilder
    ours   the command, as a user gives it, its start included

Both must give the same bytes. Prints rates in MB/s of JSON, the medians' ratio, what share of our time each step takes
on one thread, and peak memory and cost per document as the input grows to --large-megabytes of JSON.
"""

import argparse
import gzip
import json
import multiprocessing
import statistics
import subprocess
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
from llama31.common.files import atomic_writer
from llama31.common.parallel import cores
from llama31.corpus import documents, records
from llama31.corpus.encoder import Exact, Fast, use_threads
from llama31.corpus.records import NOTHING_SKIPPED
from llama31.corpus.token_writer import TokenWriter
from llama31.corpus.tokenize import as_bytes
from llama31.data.token_file import TokenType, summary

VOCABULARY = 128_000
WORKERS = THREADS = 2
CHUNK = 32  # lines that a worker is handed at a time
WORST_BYTES = 50_000_000  # of one document
ENDINGS = (".bin", ".idx")


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""  # a process of its own, since a child's peak is never less than its parent's was

T = TypeVar("T")


def texts() -> Iterator[str]:
    """Docstrings of all installed packages, each once."""
    seen: set[str] = set()
    for package in sorted({distribution.metadata["Name"] for distribution in distributions()}):
        for _, path in demo_corpus.source_files(package):
            for text in demo_corpus.docstrings(path.read_bytes()) if path.is_file() else ():
                if len(text) > demo_corpus.MIN_CHARACTERS and text not in seen:
                    seen.add(text)
                    yield text


def write_corpus(path: Path, megabytes: float) -> None:
    """A json.gz of about so many MB of JSON; the texts are repeated where they do not suffice."""
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
    """What each process of the peer's pool holds."""

    tokenizer: Any = None

    @classmethod
    def start(cls, tokenizer_dir: Path) -> None:
        """Load the tokenizer."""
        from transformers import AutoTokenizer

        cls.tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True)

    @classmethod
    def ids(cls, line: bytes) -> list[int]:
        """The ids of a record's text, as NeMo's AutoTokenizer.text_to_ids gives them."""
        ids: list[int] = cls.tokenizer.convert_tokens_to_ids(cls.tokenizer.tokenize(json.loads(line)["text"]))
        return ids


def peer(source: Path, prefix: Path, tokenizer_dir: Path) -> None:
    """Tokenise as Megatron-LM's tool does."""
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(Exact(tokenizer_dir).vocabulary))
    pool = multiprocessing.get_context("spawn").Pool(WORKERS, Worker.start, (tokenizer_dir,))
    with pool, gzip.open(source, "rb") as lines:
        for ids in pool.imap(Worker.ids, lines, CHUNK):
            if ids:
                builder.add_document(torch.IntTensor(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")


def ours(source: Path, prefix: Path, tokenizer_dir: Path) -> float:
    """Run the command; gives its peak memory in MB."""
    for ending in (*ENDINGS, ".manifest.json"):
        Path(f"{prefix}{ending}").unlink(missing_ok=True)
    command = [sys.executable, "-m", "llama31", "tokenize", f"--input={source}", f"--output-prefix={prefix}"]
    command += [f"--tokenizer={tokenizer_dir}", f"--threads={THREADS}"]
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], stdout=subprocess.PIPE, check=True)
    return int(done.stdout) / 1e3


def timed(work: Callable[..., T], *arguments: Any) -> tuple[float, T]:
    """Seconds that it took, and what it gave."""
    began = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - began, result


def steps(source: Path, prefix: Path, tokenizer_dir: Path) -> dict[str, float]:
    """Seconds of each step of ours, one after another on one thread."""
    exact = Exact(tokenizer_dir)
    fast = Fast(exact)
    token_type = TokenType.for_vocabulary(exact.vocabulary)
    seconds: Counter[str] = Counter()

    def step(name: str, work: Callable[..., T], *arguments: Any) -> T:
        lap, result = timed(work, *arguments)
        seconds[name] += lap
        return result

    blocks = documents.blocks(source)
    with TokenWriter(prefix, token_type) as writer:
        while block := step("gunzip, hash", next, blocks, None):
            texts, _ = step("parse", records.texts, block, "text", fast.refusal, NOTHING_SKIPPED, 0)
            ids, lengths = step("encode, compare", fast.encode, texts)
            step("hash, write", writer.write, as_bytes(ids, token_type), as_bytes(lengths, TokenType.int32))
    return seconds


def compare(directory: Path, tokenizer_dir: Path, megabytes: float, repeats: int) -> None:
    """Both, side by side."""
    source = corpus(directory, megabytes)
    size = json_bytes(source) / 1e6
    times: dict[str, list[float]] = {"peer": [], "ours": []}
    for turn in range(repeats):
        times["peer"].append(timed(peer, source, directory / "peer", tokenizer_dir)[0])
        times["ours"].append(timed(ours, source, directory / "ours", tokenizer_dir)[0])
        print(f"turn {turn + 1}: " + ", ".join(f"{name} {size / each[-1]:.1f} MB/s" for name, each in times.items()))
    for ending in ENDINGS:
        if Path(f"{directory}/peer{ending}").read_bytes() != Path(f"{directory}/ours{ending}").read_bytes():
            sys.exit(f"the {ending} files differ: both are in {directory}")
    median = {name: statistics.median(each) for name, each in times.items()}
    print(f"{size:.0f} MB of JSON; .bin and .idx are the same. Medians of {repeats}:")
    print(f"  peer   {size / median['peer']:6.1f} MB/s   ({WORKERS} workers)")
    print(f"  ours   {size / median['ours']:6.1f} MB/s   ({THREADS} threads)")
    print(f"  ratio  {median['peer'] / median['ours']:6.1f}")
    seconds = steps(source, directory / "steps", tokenizer_dir)
    total = sum(seconds.values())
    print(f"Shares of our work, on one thread {size / total:.0f} MB/s: ", end="")
    print(", ".join(f"{name} {100 * each / total:.0f}%" for name, each in seconds.items()))


def grow(directory: Path, tokenizer_dir: Path, megabytes: float) -> None:
    """Cost and memory of ours as the input grows, and with one enormous line."""
    print("MB of JSON   documents   us per document   peak MB")
    sources = [corpus(directory, megabytes * share) for share in (0.25, 0.5, 1)]
    worst = directory / "worst.json"
    text = next(texts())
    worst.write_bytes(orjson.dumps({"text": text * (WORST_BYTES // len(text.encode()))}))
    for source in (*sources, worst):
        seconds, peak = timed(ours, source, directory / "ours", tokenizer_dir)
        count = summary(directory / "ours").documents
        print(f"{json_bytes(source) / 1e6:10.0f}   {count:9,}   {1e6 * seconds / count:15.1f}   {peak:7.0f}")


def corpus(directory: Path, megabytes: float) -> Path:
    """The corpus of about so many MB of JSON, made if need be."""
    path = directory / f"{megabytes:.0f}-mb.json.gz"
    if not path.exists():
        print(f"making {path}", file=sys.stderr)
        write_corpus(path, megabytes)
    return path


def json_bytes(path: Path) -> int:
    """Size of the JSON in a file."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with igzip.open(path, "rb") as file:
        return sum(len(data) for data in iter(lambda: file.read(1 << 24), b""))


def main() -> None:
    """Runs the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--megabytes", type=float, default=787)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--large-megabytes", type=float, default=2000)
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    directory.mkdir(parents=True, exist_ok=True)
    use_threads(THREADS)
    tokenizer_dir = directory / "tokenizer"
    if not (tokenizer_dir / "tokenizer_config.json").exists():
        print(f"making {tokenizer_dir}", file=sys.stderr)
        demo_tokenizer.save(demo_tokenizer.train(texts(), VOCABULARY), tokenizer_dir)
    use_threads(1)
    print(f"{Exact(tokenizer_dir).vocabulary:,} entries, {cores()} cores")
    compare(directory, tokenizer_dir, arguments.megabytes, arguments.repeats)
    grow(directory, tokenizer_dir, arguments.large_megabytes)


if __name__ == "__main__":
    main()
