"""Measure the time from the command to the first optimizer step of the demo's model, compared with plain NeMo.

    python3 -m dev.bench.start [--repeats 3]

    ours    bash run_llama31.sh with the demo's settings, two ranks: plan, checks, logs, MLPerf log, then training
    peer    torchrun of dev/bench/plain_nemo.py: as in NeMo's documentation, with the same model, data and ranks

Both run in turns with an existing data index. Prints the median seconds of each part, and the ratios of the total, of
the launch and of processor time: median and range over the rounds. Then counts, once, what rank 0 imports up to
the first step, and calls of the file system (with strace), also of `from nemo.collections import llm`.
For ours, also prints the time of --help, --dryrun and an invalid setting, and of the first start, which builds the
index.
"""

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from dev.bench import harness, random_data, start_counts, watched_run
from dev.bench.harness import Column
from dev.support import runs
from llama31.config import paths
from llama31.run_dir import startup_log

VOCABULARY = 4096
TOKENS = 2_000_000
SETTINGS = {
    "SIZE": "demo",
    "DEVICE": "cpu",
    "GPUS_PER_NODE": 2,
    "PRECISION": "fp32",
    "SEQ_LENGTH": 256,
    "GBS": 8,
    "MBS": 4,
    "EVAL_SAMPLES": 8,
    "EVAL_EVERY": 1_000_000,
    "SEEDS": 1,
}
TABLE = harness.Table(
    Column("seconds to the end of", 40, left=True),
    Column("ours", 7, "{:.2f}"),
    Column("peer", 7, "{:.2f}"),
    Column("this part: ours", 18, "{:.2f}"),
    Column("peer", 7, "{:.2f}"),
)
QUICK = {
    "--help": (["--help"], 0),
    "--dryrun": (["--dryrun"], 0),
    "an invalid setting": (["GBS=30"], 2),
}


PROCESSOR = "processor seconds"
RATIOS = {"the total": startup_log.STEPPED, "the launch": startup_log.RANK, "processor time": PROCESSOR}
PROGRAMS = {
    "ours": "from llama31.launch import early_torchrun; early_torchrun.preload(); import pretrain_llama31",
    "peer": "import dev.bench.plain_nemo",
}
"""What a rank has imported before its log begins."""
PLAIN = {
    "PYTHONPATH": str(paths.REPOSITORY),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TORCH_CUDA_ARCH_LIST": "9.0",  # torch's CUDA build cannot compile without a GPU otherwise
}
"""Environment of the peer."""


def plain_command(data: dict[str, str], directory: Path) -> list[str]:
    """Return the command of the peer, whose logs are in `directory`; removes those of its last start."""
    directory.mkdir(exist_ok=True)
    for log in directory.glob("rank-*.log"):
        log.unlink()
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={SETTINGS['GPUS_PER_NODE']}"]
    settings = [f"{name}={value}" for name, value in {**SETTINGS, **data}.items()]
    return [sys.executable, *torchrun, "--module", "dev.bench.plain_nemo", str(directory), *settings]


def plain(data: dict[str, str], directory: Path, **more: str) -> dict[str, float]:
    """Start the peer and return the seconds to the end of each part of its start."""
    began, _, _ = watched_run.watch(plain_command(data, directory), **PLAIN, **more)
    return watched_run.parts(directory, began)


def with_processor_time(start: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return the seconds of each part of a start, and those of processors in all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    parts = start()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {**parts, PROCESSOR: after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def count(data: dict[str, str], settings: dict[str, object], directory: Path) -> None:
    """Print the modules that rank 0 imports and the file-system calls of whole starts."""
    peer, ours = directory / "plain", ["bash", str(paths.REPOSITORY / "run_llama31.sh"), *runs.arguments(settings)]
    plain(data, peer, **start_counts.COUNTING)
    os.environ.update(start_counts.COUNTING)
    run = watched_run.run(settings)
    for name in start_counts.COUNTING:
        del os.environ[name]
    logs = {"ours": run.run_dir / paths.RANK_LOGS, "peer": peer}
    modules = {
        name: start_counts.modules((log / "rank-0.log").read_bytes(), startup_log.STEPPED)
        + start_counts.modules_of(PROGRAMS[name])
        for name, log in logs.items()
    }
    llm = start_counts.modules_of(start_counts.LLM)
    print(
        f"modules that rank 0 imports to the first step: ours {modules['ours']:,}, peer {modules['peer']:,}, "
        f"ratio {modules['ours'] / modules['peer']:.2f}; "
        f"`from nemo.collections import llm` {llm:,}, ratio {modules['ours'] / llm:.2f}"
    )
    file = directory / "calls"
    environment = {**runs.environment(), **PLAIN}
    calls = {
        "ours": start_counts.file_calls(ours, file, 3, runs.environment()),
        "peer": start_counts.file_calls(plain_command(data, peer), file, 0, environment),
        "llm": start_counts.file_calls([sys.executable, "-c", start_counts.LLM], file, 0, environment),
    }
    if None in calls.values():
        print("file-system calls: not counted; this needs strace (Debian's package strace) and the right to trace")
        return
    ranks = int(str(SETTINGS["GPUS_PER_NODE"]))
    print(
        f"file-system calls of all processes: ours {calls['ours']:,}, peer {calls['peer']:,}, "
        f"ratio {calls['ours'] / calls['peer']:.2f}; `from nemo.collections import llm` {calls['llm']:,}, "
        f"ratio for each of {ranks} ranks, launcher included {calls['ours'] / ranks / calls['llm']:.2f}"
    )


def took(ends: dict[str, float]) -> dict[str, float]:
    """Return the seconds of each part, from the end of the previous one."""
    known = [part for part in startup_log.PARTS if part in ends]
    return {part: ends[part] - (ends[before] if before else 0) for before, part in pairwise(["", *known])}


def seconds_of(options: list[str], expected_exit_code: int) -> float:
    """Return the seconds of a call of run_llama31.sh."""
    began = time.perf_counter()
    watched_run.watch(["bash", str(paths.REPOSITORY / "run_llama31.sh"), *options], expected_exit_code)
    return time.perf_counter() - began


def main() -> None:
    """Run the bench."""
    parser = harness.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with harness.temporary_directory() as directory:
        data = random_data.make(directory, VOCABULARY, TOKENS)
        settings = {**SETTINGS, **data, "JOB_DIR": directory / "runs", "STOP_AT_STEP": 1}
        first = watched_run.run(settings).parts
        plain(data, directory / "plain")  # to build its index
        measures = {
            "peer": lambda: with_processor_time(lambda: plain(data, directory / "plain")),
            "ours": lambda: with_processor_time(lambda: watched_run.run(settings).parts),
        }
        found = harness.alternate(measures, repeats)
        given = [f"{name}={value}" for name, value in settings.items()]
        quick = {
            name: statistics.median(seconds_of([*given, *options], code) for _ in range(repeats))
            for name, (options, code) in QUICK.items()
        }
        print(TABLE.head())
        for part in startup_log.PARTS:
            ends = [statistics.median(one[part] for one in found[name]) for name in ("ours", "peer")]
            parts = [statistics.median(took(one)[part] for one in found[name]) for name in ("ours", "peer")]
            print(TABLE.row(part, *ends, *parts))
        for what, part in RATIOS.items():
            both = ([one[part] for one in found[name]] for name in ("ours", "peer"))
            print(f"ratio of {what} {harness.spread(harness.ratios(*both), '.2f')}")
        count(data, settings, directory)
    print(f"first start, which builds the index: {first[startup_log.STEPPED]:.2f} s")
    for name, seconds in quick.items():
        print(f"{name}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
