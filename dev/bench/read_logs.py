"""Measure speed and memory of the MLPerf log reader, compared with the parser of MLCommons' compliance checker.

    python3 -m dev.bench.read_logs DIRECTORY [--megabytes 1000] [--compared-megabytes 100] [--repeats 3]
    python3 -m dev.bench.read_logs DIRECTORY --check OTHER [--compared-megabytes 100] [--repeats 3]

Makes a log like the output of a job of 64 ranks: NeMo's lines of each rank, progress bars with carriage returns, and
the MLLOG lines of a run, with the time of every tenth step. Reads it with `llama31.report.logs`, and a smaller one in
turns with the checker's parser, each in its own process. Prints time, MB/s, peak memory and the ratio of the medians.
With --check, this checkout and another one check ten logs of that size in turns instead, and the ratio of their medians
is printed.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dev.bench import harness
from llama31.common.files import atomic_writer

RANKS = 64
CHATTER = 200  # lines per MLLOG line
START_MS = 1_760_000_000_000

MEASURE = """
import json, sys, time
from pathlib import Path
{imports}
began = time.perf_counter()
found = {read}
seconds = time.perf_counter() - began
peak = next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({{"seconds": seconds, "peak": peak, "values": found}}))
"""
OURS = MEASURE.format(
    imports="from llama31.report import logs",
    read="sum(len(one.value) for one in logs.read_log(Path(sys.argv[1]), lambda count: None).statistics.values())",
)
PEER = MEASURE.format(
    imports="from mlperf_logging.compliance_checker.mlp_parser import ruleset_610",
    read="len(ruleset_610.parse_file(sys.argv[1])[0])",
)
CHECK = MEASURE.format(
    imports="""try:
    from llama31.mlperf.check import submission
except ImportError:  # an older checkout
    from llama31.mlperf import several as submission""",
    read='len(list(submission.lines(submission.judge([Path(name) for name in sys.argv[1:]], "6.1.0"))))',
)


def mllog(time_ms: int, key: str, value: object, **metadata: object) -> bytes:
    """Return an MLLOG line as rank 0 of a job prints it."""
    fields = {"namespace": "", "time_ms": time_ms, "event_type": "POINT_IN_TIME", "key": key, "value": value}
    return (
        b"0: :::MLLOG " + json.dumps({**fields, "metadata": {"file": "x.py", "lineno": 1, **metadata}}).encode() + b"\n"
    )


def chatter(step: int) -> bytes:
    """Return the other lines that the ranks print around a step."""
    lines = [
        b"%d: [NeMo I 2026-11-23 10:23:%02d nemo_logging:393] Training epoch 0, iteration %d/1199999 | lr: 0.0008 | "
        b"global_batch_size: 32 | global_step: %d | reduced_train_loss: 3.314 | consumed_samples: %d\n"
        % (rank % RANKS, step % 60, step, step, 32 * step)
        for rank in range(CHATTER - 1)
    ]
    return b"".join(lines) + b"0: \rEpoch 0:  17%|##        | 2048/12288 [13:05<1:05:22,  2.61it/s]\r\n"


def parts(megabytes: float, seed: int) -> Iterator[bytes]:
    """Yield a log of about this size in parts."""
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
    """Write such a log unless it exists; return its path."""
    if not path.exists():
        with atomic_writer(path) as file:
            for part in parts(megabytes, seed):
                file.write(part)
    return path


def measured(program: str, *logs: Path, checkout: Path = harness.REPOSITORY) -> tuple[float, float, int]:
    """Run a program in its own process; return seconds, peak memory in MiB and number of values found."""
    found = harness.json_of(["-c", program, *map(str, logs)], directory=checkout)
    return found["seconds"], found["peak"] / (1 << 20), found["values"]


def read(name: str, program: str, log: Path) -> float:
    """Read a log by a program, print the figures, and return the seconds."""
    size = log.stat().st_size / 1e6
    seconds, peak, _ = measured(program, log)
    print(f"{name}: {size:,.0f} MB in {seconds:.2f} s, {size / seconds:,.0f} MB/s, peak {peak:,.0f} MiB", flush=True)
    return seconds


def compare_checks(directory: Path, other: Path, megabytes: float, repeats: int) -> None:
    """Check ten logs with two checkouts in turns; print the times and the ratio of the medians."""
    logs = [make(directory / f"{megabytes:g}-{number}.log", megabytes, seed=number) for number in range(10)]

    def judged(checkout: Path) -> float:
        seconds, peak, _ = measured(CHECK, *logs, checkout=checkout)
        print(f"{checkout}: 10 x {megabytes:g} MB in {seconds:.2f} s, peak {peak:,.0f} MiB", flush=True)
        return seconds

    found = harness.alternate({"other": partial(judged, other), "this": partial(judged, harness.REPOSITORY)}, repeats)
    ratio = harness.ratio_of_medians(found["this"], found["other"])
    print(f"medians: {ratio:.2f} times the other's time")


def main() -> None:
    """Run the bench."""
    parser = harness.parser(__doc__, directory=True)
    parser.add_argument("--megabytes", type=float, default=1000)
    parser.add_argument("--compared-megabytes", type=float, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--check", metavar="OTHER", type=Path, help="another checkout to compare the verb `check` with")
    arguments = parser.parse_args()
    if arguments.check:
        compare_checks(arguments.directory, arguments.check, arguments.compared_megabytes, arguments.repeats)
        return
    for megabytes, programs in (
        (arguments.compared_megabytes, {"peer": PEER, "ours": OURS}),
        (arguments.megabytes, {"ours": OURS}),
    ):
        log = make(arguments.directory / f"{megabytes:g}.log", megabytes)
        readers = {name: partial(read, name, program, log) for name, program in programs.items()}
        seconds = harness.alternate(readers, arguments.repeats)
        if len(programs) > 1:
            ratio = harness.ratio_of_medians(seconds["peer"], seconds["ours"])
            print(f"medians: ours is {ratio:.1f} times as fast")


if __name__ == "__main__":
    main()
