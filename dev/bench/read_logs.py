"""Speed and memory of the reader of MLPerf logs, beside the parser of MLCommons' compliance checker.

    python3 -m dev.bench.read_logs DIRECTORY [--megabytes 1000] [--compared-megabytes 100] [--repeats 3]
    python3 -m dev.bench.read_logs DIRECTORY --check OTHER [--compared-megabytes 100] [--repeats 3]

Makes a log as a job of 64 ranks prints it: NeMo's lines of every rank, progress bars that end in carriage returns, and
among them the MLLOG lines of a run, with the time of every tenth step. Reads it by `llama31.report.logs`, and a smaller
one in turns with the checker's parser, each in a process of its own. Prints time, MB/s, peak memory, and the medians'
ratio. With --check it instead has this checkout and another one judge ten logs of that size, in turns, and prints the
ratio of their medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from llama31.common.files import atomic_writer

RANKS = 64
CHATTER = 200  # lines for each line of MLLOG
START_MS = 1_760_000_000_000
REPOSITORY = Path(__file__).resolve().parents[2]

MEASURE = """
import resource, sys, time
from pathlib import Path
{imports}
began = time.perf_counter()
found = {read}
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, found)
"""
OURS = MEASURE.format(
    imports="from llama31.report import logs",
    read="sum(len(one.value) for one in logs.read_log(Path(sys.argv[1]), lambda count: None).statistics.values())",
)
PEER = MEASURE.format(
    imports="from mlperf_logging.compliance_checker.mlp_parser import ruleset_610",
    read="len(ruleset_610.parse_file(sys.argv[1])[0])",
)
CHECK = """
import resource, sys, time
from pathlib import Path
from llama31.mlperf.check import submission
began = time.perf_counter()
found = list(submission.lines(submission.judge([Path(name) for name in sys.argv[1:]], "6.1.0")))
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(found))
"""


def mllog(time_ms: int, key: str, value: object, **metadata: object) -> bytes:
    """One line, as rank 0 of a job prints it."""
    fields = {"namespace": "", "time_ms": time_ms, "event_type": "POINT_IN_TIME", "key": key, "value": value}
    return (
        b"0: :::MLLOG " + json.dumps({**fields, "metadata": {"file": "x.py", "lineno": 1, **metadata}}).encode() + b"\n"
    )


def chatter(step: int) -> bytes:
    """What the ranks print in a while."""
    lines = [
        b"%d: [NeMo I 2026-11-23 10:23:%02d nemo_logging:393] Training epoch 0, iteration %d/1199999 | lr: 0.0008 | "
        b"global_batch_size: 32 | global_step: %d | reduced_train_loss: 3.314 | consumed_samples: %d\n"
        % (rank % RANKS, step % 60, step, step, 32 * step)
        for rank in range(CHATTER - 1)
    ]
    return b"".join(lines) + b"0: \rEpoch 0:  17%|##        | 2048/12288 [13:05<1:05:22,  2.61it/s]\r\n"


def parts(megabytes: float, seed: int) -> Iterator[bytes]:
    """A log of about so many megabytes, piece by piece."""
    head = {"submission_benchmark": "llama31_8b", "seed": seed, "global_batch_size": 32, "max_sequence_length": 8192}
    yield b"".join(mllog(START_MS, key, value) for key, value in head.items())
    yield mllog(START_MS, "run_start", None)
    written, step = 0, 0
    while written < megabytes * 1e6:
        step += 10
        part = chatter(step) + mllog(
            START_MS + 350 * step,
            "tracked_stats",
            {"train_step_time": 0.35 + step % 7 / 1000, "reduced_train_loss": 3.3 + 5 / (1 + step)},
            step=step,
            samples_count=32 * step,
        )
        written += len(part)
        yield part
    yield mllog(START_MS + 350 * step, "eval_accuracy", 3.29, samples_count=32 * step)
    yield mllog(START_MS + 350 * step, "run_stop", None, status="success", samples_count=32 * step)


def make(path: Path, megabytes: float, seed: int = 1234) -> Path:
    """Writes such a log, unless it is there."""
    if not path.exists():
        with atomic_writer(path) as file:
            for part in parts(megabytes, seed):
                file.write(part)
    return path


def measured(program: str, *logs: Path, checkout: Path = REPOSITORY) -> tuple[float, float, int]:
    """Seconds, peak memory in MiB, and number of values found, in a process of its own."""
    command = [sys.executable, "-c", program, *map(str, logs)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    seconds, peak, found = done.stdout.split()
    return float(seconds), float(peak), int(found)


def compare_checks(directory: Path, other: Path, megabytes: float, repeats: int) -> None:
    """Have two checkouts judge ten logs in turns, and print times and the ratio of the medians."""
    logs = [make(directory / f"{megabytes:g}-{number}.log", megabytes, seed=number) for number in range(10)]
    seconds: dict[Path, list[float]] = {other: [], REPOSITORY: []}
    for _ in range(repeats):
        for checkout, taken in seconds.items():
            took, peak, _ = measured(CHECK, *logs, checkout=checkout)
            taken.append(took)
            print(f"{checkout}: 10 x {megabytes:g} MB in {took:.2f} s, peak {peak:,.0f} MiB", flush=True)
    ratio = statistics.median(seconds[REPOSITORY]) / statistics.median(seconds[other])
    print(f"medians: {ratio:.2f} times the other's time")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--megabytes", type=float, default=1000)
    parser.add_argument("--compared-megabytes", type=float, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--check", metavar="OTHER", type=Path, help="another checkout, for the verb check")
    arguments = parser.parse_args()
    arguments.directory = arguments.directory.absolute()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    if arguments.check:
        compare_checks(arguments.directory, arguments.check, arguments.compared_megabytes, arguments.repeats)
        return
    for megabytes, programs in (
        (arguments.compared_megabytes, {"peer": PEER, "ours": OURS}),
        (arguments.megabytes, {"ours": OURS}),
    ):
        log = make(arguments.directory / f"{megabytes:g}.log", megabytes)
        size = log.stat().st_size / 1e6
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(arguments.repeats):
            for name, program in programs.items():
                took, peak, _ = measured(program, log)
                seconds[name].append(took)
                print(
                    f"{name}: {size:,.0f} MB in {took:.2f} s, {size / took:,.0f} MB/s, peak {peak:,.0f} MiB", flush=True
                )
        if len(programs) > 1:
            ratio = statistics.median(seconds["peer"]) / statistics.median(seconds["ours"])
            print(f"medians: ours is {ratio:.1f} times as fast")


if __name__ == "__main__":
    main()
