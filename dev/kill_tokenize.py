"""Kill `python3 -m llama31 tokenize` repeatedly and check that its output equals that of an undisturbed run.

    python3 -m dev.kill_tokenize DIRECTORY [--kills 50] [--documents 40000] [--seed 0]

DIRECTORY must be new. Each start resumes where the previous one was killed, and is killed by SIGKILL itself: half of
them after a random time, the others when they open, rename or remove a file, where a crash does most harm. When a start
completes, its files are compared with those of the undisturbed run and removed, and the next one starts from scratch.
After each kill, a file under its final name must be complete. 50 kills take about 3 minutes on two cores.
"""

import argparse
import gzip
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from dev import demo_tokenizer

WORDS = "the of and to in is that for it as was with be by on not he his but at are this have from".split()  # noqa: SIM905
ENDINGS = (".bin", ".idx", ".manifest.json")
CHILD = """
import os, signal, sys
from llama31.cli.main import main
from llama31.corpus import batches, documents, tokenize

batches.SMALL_BYTES = 0  # another process reads
tokenize.CHECKPOINT_SECONDS = 0.05
documents.BLOCK_BYTES = 1 << 18
events = int(sys.argv.pop(1))

def hook(event, arguments):
    global events
    if event in ("open", "os.rename", "os.remove") and "data" in str(arguments[0]):
        events -= 1
        if events == 0:
            os.kill(os.getpid(), signal.SIGKILL)

if events:
    sys.addaudithook(hook)
main()
"""


def make_inputs(directory: Path, documents: int, chooser: random.Random) -> tuple[list[Path], Path]:
    """Write three files of texts (several gzip members, one, plain) and a tokenizer; return their paths."""
    texts = [" ".join(chooser.choices(WORDS, k=chooser.randint(0, 200))) for _ in range(documents)]
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in texts]
    third = documents // 3
    data = [lines[:third], lines[third : 2 * third], lines[2 * third :]]
    members = b"".join(gzip.compress(b"".join(data[0][start : start + 500]), 1) for start in range(0, third, 500))
    contents = {
        "1.json.gz": members,
        "2.json.gz": gzip.compress(b"".join(data[1]), 1),
        "3.jsonl": b"".join(data[2]),
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    tokenizer = directory / "tokenizer"
    demo_tokenizer.save(demo_tokenizer.train(texts[:500], vocabulary=600), tokenizer)
    return [directory / name for name in contents], tokenizer


def content(prefix: Path) -> list[bytes]:
    """Return the bytes of a finished output."""
    return [Path(f"{prefix}{ending}").read_bytes() for ending in ENDINGS]


def campaign(directory: Path, kills: int, documents: int, seed: int) -> str:
    """Kill `kills` runs and return a line with the figures. Raises AssertionError if anything was lost."""
    chooser = random.Random(seed)
    directory.mkdir(parents=True)
    inputs, tokenizer = make_inputs(directory, documents, chooser)

    def start(prefix: Path, events: int) -> "subprocess.Popen[bytes]":
        arguments = [f"--input={path}" for path in inputs]
        arguments += [f"--output-prefix={prefix}", f"--tokenizer={tokenizer}"]
        command = [sys.executable, "-c", CHILD, str(events), "tokenize", *arguments]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    began = time.monotonic()
    assert start(directory / "undisturbed", 0).wait() == 0, "the undisturbed run failed"
    seconds = time.monotonic() - began
    right = content(directory / "undisturbed")

    prefix = directory / "data"
    done = ends = resumed = 0
    while done < kills:
        resumed += prefix.with_name("data.checkpoint.json").exists()
        process = start(prefix, chooser.randint(1, 120) if done % 2 else 0)
        try:
            process.wait(timeout=None if done % 2 else chooser.uniform(0.3, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode == 0:
            ends += 1
            assert content(prefix) == right, "a run that was killed and resumed wrote other bytes"
            left = {path.name for path in directory.iterdir() if path.name.startswith("data")}
            assert left == {f"data{ending}" for ending in ENDINGS}, f"left behind: {left}"
            for ending in ENDINGS:
                Path(f"{prefix}{ending}").unlink()
            continue
        assert process.returncode == -signal.SIGKILL, f"a run failed by another cause: exit code {process.returncode}"
        done += 1
        for ending, whole in zip(ENDINGS, right, strict=True):
            path = Path(f"{prefix}{ending}")
            assert not path.exists() or path.read_bytes() == whole, f"{path} is half-written under its final name"
        if sys.stderr.isatty():
            print(f"\r{done} of {kills} kills, {time.monotonic() - began:.0f} s", end="", file=sys.stderr)
    assert start(prefix, 0).wait() == 0, "the last run failed"
    assert content(prefix) == right, "a run that was killed and resumed wrote other bytes"
    return (
        f"{done} kills, {resumed} of them of resumed runs; {ends + 1} runs completed, "
        "each with the bytes of the undisturbed run; no file was half-written under its final name"
    )


def main() -> None:
    """Run a campaign with the options of the command line."""
    parser = argparse.ArgumentParser(description="Kill tokenize repeatedly and check its output.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--documents", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(campaign(arguments.directory, arguments.kills, arguments.documents, arguments.seed))


if __name__ == "__main__":
    main()
