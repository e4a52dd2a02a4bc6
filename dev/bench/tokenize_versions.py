"""Compare `python3 -m llama31 tokenize` with an earlier commit of it and with Megatron-LM's tools.

    git worktree add BEFORE COMMIT
    git clone --depth 1 https://github.com/NVIDIA/Megatron-LM MEGATRON   # 2026-08 or newer
    python3 -m dev.bench.tokenize_versions FILE TOKENIZER DIRECTORY [--before BEFORE] [--megatron MEGATRON
        [--megatron-python PYTHON] [--old-tool]] [--rounds 3] [--no-encoding]

FILE: JSON lines, plain for Megatron-LM's tools, which read no gzip; `dev.bench.tokenize` makes some (270-mb.json.gz).
PYTHON: of an environment for MEGATRON (Python 3.12, triton, gigatoken); default: this one. --old-tool adds
tools/preprocess_data.py with two workers. --no-encoding adds ours with an encoder that costs nothing: ids of zero.

All run in turns and must write the same .bin. Each also runs once on one line first, for the time of its start. Prints
seconds, CPU seconds, peak memory of all processes together, and the ratios to ours, with and without the start; each as
median and range over the rounds.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from dev.bench import harness
from dev.bench.harness import REPOSITORY, Column
from llama31.common.files import size_and_sha256

THREADS = 2
SAMPLE_SECONDS = 0.1  # between two looks at the memory
FREE = """
import sys
import numpy as np
from llama31.corpus.fast_encoder import FastEncoder

zeros = np.zeros(1 << 24, np.uint32)

def encode(self, texts, known):
    lengths = np.maximum(1, texts.lengths // 4)
    return zeros[: lengths.sum()], lengths

FastEncoder.encode = encode
from llama31.cli.main import main
main()
"""
"""The command with an encoder that costs nothing: about as many ids as usual, all zero."""

RESULTS = harness.Table(
    Column("", 15, left=True),
    Column("seconds", 24),
    Column("CPU seconds", 24),
    Column("peak MB", 18),
    Column("start", 8, "{:.2f} s"),
    Column("time / ours", 22),
    Column("without start", 22),
)


@dataclass(frozen=True)
class Measured:
    """One run of a command."""

    seconds: float
    cpu_seconds: float
    memory: int
    """Peak bytes of all its processes together, counting shared pages once."""


def measured(command: list[str], directory: Path, more_python: str = "") -> Measured:
    """Run a command in a directory; exit with its output if it fails."""
    environment = {**os.environ, "PYTHONPATH": more_python} if more_python else dict(os.environ)
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        memory = 0
        watched = psutil.Process(process.pid)
        while psutil.pid_exists(process.pid):
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            memory = max(memory, _memory(watched))
            time.sleep(SAMPLE_SECONDS)
        seconds = time.perf_counter() - began
        if os.waitstatus_to_exitcode(status):
            assert process.stderr
            sys.exit(f"{' '.join(command)}\n{process.stderr.read()}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, memory)


def _memory(process: psutil.Process) -> int:
    held = 0
    try:
        for each in (process, *process.children(recursive=True)):
            held += each.memory_full_info().pss
    except psutil.Error:  # one has just ended
        return 0
    return held


def main() -> None:
    """Run the bench."""
    parser = harness.parser(__doc__)
    for name in ("file", "tokenizer", "directory"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    parser.add_argument("--before", type=Path)
    parser.add_argument("--megatron", type=Path)
    parser.add_argument("--megatron-python", default=sys.executable)
    parser.add_argument("--old-tool", action="store_true")
    parser.add_argument("--no-encoding", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    directory: Path = arguments.directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    source: Path = arguments.file.absolute()
    one_line = directory / "one-line.json"
    one_line.write_text('{"text": "one line"}\n')

    def ours(root: Path, name: str, program: list[str]) -> Callable[[Path], Measured]:
        def turn(file: Path) -> Measured:
            for path in directory.glob(f"{name}.*"):
                path.unlink()
            command = [sys.executable, *program, "tokenize", f"--input={file}", f"--output-prefix={directory}/{name}"]
            return measured([*command, f"--tokenizer={arguments.tokenizer.absolute()}", f"--threads={THREADS}"], root)

        return turn

    def megatron(tool: str, name: str, *options: str) -> Callable[[Path], Measured]:
        root: Path = arguments.megatron.absolute()
        command = [arguments.megatron_python, f"{root}/tools/{tool}", f"--output-prefix={directory}/{name}"]
        command += ["--tokenizer-type=HuggingFaceTokenizer", f"--tokenizer-model={arguments.tokenizer.absolute()}"]
        return lambda file: measured([*command, f"--input={file}", *options], root, str(root))

    programs = {"ours": ours(REPOSITORY, "ours", ["-m", "llama31"])}
    if arguments.before:
        programs["before"] = ours(arguments.before.absolute(), "before", ["-m", "llama31"])
    if arguments.megatron:
        programs["megatron"] = megatron("preprocess_data_fast.py", "megatron", "--use-gigatoken")
        if arguments.old_tool:
            programs["megatron-old"] = megatron("preprocess_data.py", "megatron-old", f"--workers={THREADS}")
    if arguments.no_encoding:
        programs["no-encoding"] = ours(REPOSITORY, "no-encoding", ["-c", FREE])
    starts = {name: program(one_line).seconds for name, program in programs.items()}

    def turn(program: Callable[[Path], Measured]) -> Callable[[], Measured]:
        return lambda: program(source)

    def show(number: int, found: dict[str, Measured]) -> None:
        print(f"round {number}: " + ", ".join(f"{name} {each.seconds:.2f} s" for name, each in found.items()))

    rounds = {name: turn(program) for name, program in programs.items()}
    results = harness.alternate(rounds, arguments.rounds, each_round=show)
    outputs = [directory / f"{name}{'_text_document' * name.startswith('megatron')}.bin" for name in programs]
    digests = {size_and_sha256(path) for path in outputs if path.stem != "no-encoding"}
    if len(digests) > 1:
        sys.exit(f"the .bin files in {directory} differ")
    print(f"{source.stat().st_size / 1e6:.0f} MB in the file; the .bin files are equal; {arguments.rounds} rounds")
    print(RESULTS.head())
    mine = [each.seconds for each in results["ours"]]
    for name, runs in results.items():
        seconds = [each.seconds for each in runs]
        without = [
            harness.ratios([each - starts[name]], [own - starts["ours"]])[0]
            for each, own in zip(seconds, mine, strict=True)
        ]
        print(
            RESULTS.row(
                name,
                harness.spread(seconds, ".2f"),
                harness.spread([each.cpu_seconds for each in runs], ".2f"),
                harness.spread([each.memory / 1e6 for each in runs], ".0f"),
                starts[name],
                harness.spread(harness.ratios(seconds, mine), ".2f"),
                harness.spread(without, ".2f"),
            )
        )


if __name__ == "__main__":
    main()
