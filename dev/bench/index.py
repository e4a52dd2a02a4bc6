"""Measure time, size and memory of the training index, compared with stock Megatron's.

    python3 -m dev.bench.index DIRECTORY [--documents 45000000] [--repeats 1]

Makes a token file with random document lengths (log-normal, with C4's mean) whose .bin is a sparse file of the right
size: an index needs no tokens. Then builds these in turns, each in its own process, timing only the building:

    pass      Megatron's GPTDataset for one pass over the data
    schedule  the same for the sequences of the whole schedule, as NeMo requests them; skipped if memory may be short
    ours      the index of a run at the default batch size
    again     ours a second time: checked and opened, as by a second start

With fewer documents than the benchmark's part 6, the number of sequences is scaled down in proportion. Prints the
medians of each, and ours relative to each (rel.). Also compares the sequences: ours must be the first ones of pass.
"""

import argparse
import json
import shutil
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dev.bench import harness
from dev.bench.harness import Column
from llama31 import rules
from llama31.data import token_file
from llama31.data.token_file import HEADER, MAGIC, VERSION, TokenType
from llama31.settings import Settings

USUAL = Settings()
MEAN_TOKENS = rules.PART_6_TOKENS / rules.PART_6_DOCUMENTS
SIGMA = 1.0  # of the lengths' logarithm
SEED = 1234
BYTES_PER_DOCUMENT = 3 * 8  # peak of Megatron for each pass: a grid of two int64 and one of scratch space
KINDS = ("pass", "schedule", "ours", "again")
TABLE = harness.Table(
    Column("index", 9, left=True),
    Column("sequences", 12, "{:,.0f}"),
    Column("time", 10, "{:.2f} s"),
    Column("disk", 12, "{:.1f} MB"),
    Column("memory", 10, "{:.2f} GB"),
    Column("rel. time", 9, "{:.2f}"),
    Column("rel. disk", 9, "{:.2f}"),
    Column("rel. memory", 11, "{:.2f}"),
)


def write_data(prefix: Path, documents: int) -> None:
    """Write a token file without tokens."""
    random = np.random.default_rng(0)
    lengths = random.lognormal(np.log(MEAN_TOKENS) - SIGMA**2 / 2, SIGMA, documents).clip(1, 1e6).astype("<i4")
    itemsize = TokenType.int32.itemsize
    ends = np.cumsum(lengths, dtype="<i8") * itemsize
    with open(token_file.idx_path(prefix), "wb") as file:
        file.write(HEADER.pack(MAGIC, VERSION, TokenType.int32.code, documents, documents + 1))
        lengths.tofile(file)
        (ends - lengths.astype("<i8") * itemsize).tofile(file)
        np.arange(documents + 1, dtype="<i8").tofile(file)
    with open(token_file.bin_path(prefix), "wb") as file:
        file.truncate(int(ends[-1]))


def share(samples: int, documents: int) -> int:
    """Scale a number of sequences down to a smaller token file."""
    return round(samples * min(1, documents / rules.PART_6_DOCUMENTS))


class NoTokenizer:
    """Megatron's configuration requires a tokenizer; an index does not use it."""

    unique_identifiers: ClassVar[dict[str, str]] = {}


def stock(prefix: Path, samples: int | None, cache: Path) -> Any:
    """Build Megatron's dataset, which builds its index."""
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    config = GPTDatasetConfig(
        random_seed=SEED,
        sequence_length=USUAL.seq_length,
        blend_per_split=[([str(prefix)], None), None, None],
        path_to_cache=str(cache),
        tokenizer=NoTokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
    )
    file = IndexedDataset(str(prefix))
    everything = np.arange(len(file), dtype=np.int32)
    return GPTDataset(file, str(prefix), everything, samples, Split.train, config)


def child(kind: str, prefix: Path, cache: Path) -> None:
    """Build or open one index and print time, size and memory as JSON."""
    from megatron.core.datasets import helpers  # noqa: F401 - imports are not what is timed

    from llama31.data import index

    documents = token_file.summary(prefix).documents
    began = time.perf_counter()
    if kind in ("pass", "schedule"):
        samples = share(rules.MAX_STEPS * USUAL.gbs, documents) if kind == "schedule" else None
        sequences = len(stock(prefix, samples, cache))
    else:
        wanted = index.Index(str(cache), (str(prefix),), USUAL.seq_length, SEED, share(USUAL.sample_limit, documents))
        _, built = index.ensure(wanted)
        assert built == (kind == "ours")
        sequences = wanted.samples
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    print(json.dumps({"seconds": seconds, "bytes": size, "memory": harness.peak_memory(), "sequences": sequences}))


def measured(kind: str, prefix: Path) -> dict[str, float]:
    """Return what `child` measures for one index in its own process; `again` opens the index of `ours`."""
    cache = prefix.parent / ("ours" if kind == "again" else kind)
    if kind != "again":
        shutil.rmtree(cache, ignore_errors=True)
    command = ["-m", "dev.bench.index", str(prefix.parent), "--child", kind, "--cache", str(cache)]
    return harness.json_of(command)


def compare(prefix: Path, stock_cache: Path, our_cache: Path) -> int:
    """Compare all our sequences with the first ones of Megatron's pass; return their number. Raises AssertionError."""
    from llama31.data import order

    (directory,) = (path for path in our_cache.iterdir() if path.is_dir())
    documents, cuts, shuffled = (
        np.load(next(stock_cache.glob(f"*-{name}_index.npy")), mmap_mode="r")
        for name in ("document", "sample", "shuffle")
    )
    entries = np.load(directory / order.documents_file(prefix), mmap_mode="r")
    ends = np.load(directory / order.ends_file(prefix), mmap_mode="r")
    for number in range(len(ends) // 2):
        (begin, offset), (end, last) = ends[2 * number], ends[2 * number + 1]
        theirs_begin, theirs_end = cuts[shuffled[number]], cuts[shuffled[number] + 1]
        assert (offset, last) == (theirs_begin[1], theirs_end[1]), f"sequence {number}: offsets differ"
        theirs = documents[theirs_begin[0] : theirs_end[0] + 1]
        assert np.array_equal(entries[begin : end + 1], theirs), f"sequence {number}: documents differ"
    return len(ends) // 2


def main() -> None:
    """Run the bench."""
    parser = harness.parser(__doc__, directory=True)
    parser.add_argument("--documents", type=int, default=45_000_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    prefix = options.directory / "synthetic"
    if options.child:
        child(options.child, prefix, options.cache)
        return
    if not token_file.idx_path(prefix).exists() or token_file.summary(prefix).documents != options.documents:
        write_data(prefix, options.documents)
    file = token_file.summary(prefix)
    passes = share(rules.MAX_STEPS * USUAL.gbs, file.documents) / file.sequences(USUAL.seq_length)
    kinds = list(KINDS)
    if (needed := BYTES_PER_DOCUMENT * (passes + 1) * file.documents) > harness.available_memory() / 2:
        kinds.remove("schedule")
        print(f"schedule: skipped: needs about {needed / 1e9:.0f} GB of memory; try fewer --documents")
    print(f"{file.documents:,} documents, {file.tokens:,} tokens; the schedule is {passes:.1f} passes")

    def compare_once(number: int, _: object) -> None:
        if number == 1:
            same = compare(prefix, options.directory / "pass", options.directory / "ours")
            print(f"the {same:,} sequences of ours are the first of pass")

    measures = {kind: partial(measured, kind, prefix) for kind in kinds}
    found = harness.alternate(measures, options.repeats, each_round=compare_once)
    print(TABLE.head())
    ours = {}
    for kind in (*kinds[-2:], *kinds[:-2]):
        figures = {name: statistics.median(one[name] for one in found[kind]) for name in found[kind][0]}
        ours = ours or figures
        shares = [ours[name] / figures[name] for name in ("seconds", "bytes", "memory")]
        sizes = figures["bytes"] / 1e6, figures["memory"] / 1e9
        print(TABLE.row(kind, figures["sequences"], figures["seconds"], *sizes, *shares))


if __name__ == "__main__":
    main()
