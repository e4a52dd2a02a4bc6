"""Measure how start, step and memory of a run on the CPU grow with documents, ranks and model width.

    python3 -m dev.bench.growth DIRECTORY [--documents N ...] [--ranks 1 2 4] [--widths 128 256 512 1024]

Each line of the first two tables is two runs of run_llama31.sh: the demo's model, 8 sequences of 256 tokens per step,
fp32, on all cores. It shows the time from the command to the first step of the run that builds the index and of the one
that reuses it, the share of the index in both, the median step, and the peak memory of all processes. The .bin of the
token files is a sparse file.

The last table compares this project with Hugging Face's Llama as dev/bench/train_step.py does, at several widths: 4
layers, 4 sequences of 256 tokens. `start` is the time of our process to the end of the first step.
"""

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from dev.bench import harness, random_data, start, train_step, watched_run
from dev.bench.contender import Contender, in_turns
from dev.bench.harness import Column
from dev.bench.index import write_data
from dev.bench.step_contenders import hugging_face, product
from llama31.config import paths
from llama31.config.model_sizes import Shape
from llama31.launch import rank_command
from llama31.run_dir import startup_log
from llama31.settings import Settings

DOCUMENTS = [10_000, 100_000, 1_000_000, 10_000_000, 50_000_000]
STEPS = 24
SHORT = ["SEQ_LENGTH=256", "EVAL_SAMPLES=4"]
HEAD = 64  # width of an attention head, at every width of the model
OF_A_RUN = (
    Column("first start", 12, "{:.1f}"),
    Column("index", 7, "{:.2f}"),
    Column("start", 7, "{:.1f}"),
    Column("index", 7, "{:.2f}"),
    Column("s/step", 8, "{:.3f}"),
    Column("memory", 9, "{:.2f} GB"),
)
DOCUMENTS_TABLE = harness.Table(Column("documents", 12, "{:,}"), *OF_A_RUN)
RANKS_TABLE = harness.Table(Column("ranks", 12), *OF_A_RUN)
WIDTHS_TABLE = harness.Table(
    Column("width", 12, "{:,}"),
    Column("parameters", 12, "{:.1f} M"),
    Column("start", 8, "{:.1f}"),
    Column("peer s/step", 12, "{:.3f}"),
    Column("ours", 8, "{:.3f}"),
    Column("ratio", 22),
    Column("peer memory", 12, "{:.2f} GB"),
    Column("ours", 9, "{:.2f} GB"),
)


def shape(width: int) -> Shape:
    """Return the shape of dev/bench/train_step.py at another width."""
    heads = width // HEAD
    return Shape(
        layers=4, hidden_size=width, ffn_hidden_size=width * 11 // 4, attention_heads=heads, key_value_heads=heads // 2
    )


def with_documents(directory: Path, documents: int) -> dict[str, str]:
    """Make a token file with this number of documents; return the settings that name it."""
    data = random_data.make(directory, start.VOCABULARY, tokens=random_data.DOCUMENT)
    (prefix,) = paths.train_prefixes(Settings(preprocessed_path=data["PREPROCESSED_PATH"], train_parts="6"))
    write_data(prefix, documents)
    return data


def figures(settings: dict[str, object]) -> list[float]:
    """Run twice with the same settings, so that the first builds the index; return the values of OF_A_RUN."""
    first, again = (watched_run.run({**settings, "STOP_AT_STEP": STEPS}) for _ in range(2))
    starts = [
        value
        for one in (first, again)
        for value in (one.parts[startup_log.STEPPED], start.took(one.parts)[startup_log.INDEXED])
    ]
    step = statistics.median([first.step_seconds(), again.step_seconds()])
    return [*starts, step, max(first.memory, again.memory) / 1e9]


def by_documents(directory: Path, counts: list[int]) -> Iterator[str]:
    """Yield the table of runs with one rank."""
    yield DOCUMENTS_TABLE.head()
    for documents in counts:
        with harness.temporary_directory(directory) as place:
            data = with_documents(place, documents)
            settings = {**start.SETTINGS, **data, "GPUS_PER_NODE": 1, "JOB_DIR": place / "runs"}
            yield DOCUMENTS_TABLE.row(documents, *figures(settings))


def by_ranks(directory: Path, counts: list[int]) -> Iterator[str]:
    """Yield the table of runs that divide the same batch among data-parallel ranks."""
    yield RANKS_TABLE.head()
    for count in counts:
        with harness.temporary_directory(directory) as place:
            data = random_data.make(place, start.VOCABULARY, start.TOKENS)
            job_dir = place / "runs"
            settings = {**start.SETTINGS, **data, "GPUS_PER_NODE": count, "MBS": 8 // count, "JOB_DIR": job_dir}
            yield RANKS_TABLE.row(count, *figures(settings))


def by_width(directory: Path, widths: list[int], rounds: int) -> Iterator[str]:
    """Yield the table of steps of this project and of Hugging Face's model, run in turns."""
    yield WIDTHS_TABLE.head()
    for width in widths:
        with harness.temporary_directory(directory) as place:
            model = shape(width)
            settings, run_dir = train_step.prepared(place, SHORT, model)
            os.environ.update(rank_command.environment(settings, os.environ))
            with Contender("Hugging Face's", hugging_face, settings, model, train_step.VOCABULARY) as peer:
                began = time.perf_counter()
                with Contender("our run", product, run_dir, model, train_step.free_port()) as ours:
                    started = time.perf_counter() - began
                    seconds = in_turns([("peer", peer, "run"), ("ours", ours, "run")], rounds, 4)
                    held = [one.peak_memory() / 1e9 for one in (peer, ours)]
            millions = model.parameters(train_step.VOCABULARY) / 1e6
            medians = [statistics.median(seconds[name]) for name in ("peer", "ours")]
            ratio = harness.spread(harness.ratios(seconds["ours"], seconds["peer"]), ".2f")
            yield WIDTHS_TABLE.row(width, millions, started, *medians, ratio, *held)


def main() -> None:
    """Run the bench."""
    parser = harness.parser(__doc__, directory=True)
    parser.add_argument("--documents", type=int, nargs="*", default=DOCUMENTS)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--widths", type=int, nargs="*", default=[128, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for lines in (
        by_documents(options.directory, options.documents),
        by_ranks(options.directory, options.ranks),
        by_width(options.directory, options.widths, options.rounds),
    ):
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
