"""utils/download_data.sh as a user calls it, against a server on loopback; and interruptions."""

import os
import random
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import REPOSITORY

from dev.support.file_server import DEADLINE, FileServer, running, wait_while
from llama31 import rules
from llama31.data.token_file import TokenFile, bin_path, idx_path, summary

MIB = 1 << 20
PIECES = (
    "from llama31.corpus.download import published, retries, target, web; "
    "retries.FIRST_PAUSE = 0; web.TIMEOUTS = (5, 1); "
    f"target.PIECE_BYTES = {MIB}; target.RECORD_BYTES = {MIB // 8}; published.READ_BYTES = {MIB // 64}; "
)
MAIN = "from llama31.cli.main import main; main()"
OURS = ("MLC_", "MLCOMMONS_", "CF_ACCESS_", "C4_PATH", "PREPROCESSED_PATH", "TOKENIZER_PATH", "PARTS", "JOBS")
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(OURS)},
    "LLAMA31_VENV": sys.prefix,
    "no_proxy": "127.0.0.1",
    "NO_PROXY": "127.0.0.1",
}


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running() as state:
        yield state


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return command(shlex.join(["bash", "utils/download_data.sh", *arguments]), **environment)


def command(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**ENVIRONMENT, **environment}
    return subprocess.run(
        ["bash", "-c", line], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False, timeout=DEADLINE
    )


def token_files(tiny_data: dict[str, str]) -> dict[str, TokenFile]:
    """The tiny token files by the names that MLCommons publishes."""
    directory = Path(tiny_data["PREPROCESSED_PATH"])
    validation = rules.validation_name(int(tiny_data["N_VALIDATION_SAMPLES"]))
    sources = (rules.train_part_name(rules.BENCHMARK_PARTS[0]), validation)
    prefixes = (directory / rules.token_file_name(source) for source in sources)
    return dict(zip(rules.KNOWN_COUNTS, map(summary, prefixes), strict=True))


def published_files(found: dict[str, TokenFile]) -> dict[str, bytes]:
    """What is beside the token files too."""
    files = {"LICENSE.txt": b"licence\n", "NOTICE.txt": b"notice\n"}
    for name, file in found.items():
        files |= {f"{name}.bin": bin_path(file.prefix).read_bytes(), f"{name}.idx": idx_path(file.prefix).read_bytes()}
    return files


def stand_in(directory: Path, found: dict[str, TokenFile]) -> Path:
    """An environment whose Python takes these for what MLCommons publishes."""
    table = ", ".join(f"'{name}': rules.KnownCounts({f.documents}, {f.tokens}, False)" for name, f in found.items())
    code = f"from llama31 import rules; rules.KNOWN_COUNTS = {{{table}}}; {MAIN}"
    python = directory / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nshift 2\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
    python.chmod(0o755)
    return directory


@pytest.mark.slow
def test_new_user(server: FileServer, tiny_data: dict[str, str], tmp_path: Path) -> None:
    """Token files, tokenizer, dry run: each command is the one that the command before names."""
    found = token_files(tiny_data)
    files = published_files(found)
    tokenizer = {path.name: path.read_bytes() for path in Path(tiny_data["TOKENIZER_PATH"]).iterdir()}
    server.publish("llama-3-1-8b-preprocessed-c4-dataset", files, base=rules.DATA_SITE, directory="c4/llama3_1_8b")
    server.publish("llama-3-1-8b-tokenizer", {**tokenizer, "model-00001-of-00001.safetensors": bytes(MIB)})
    data, directory = tmp_path / "token files", tmp_path / "tokenizer"
    environment = {
        "MLCOMMONS_MIRROR": server.url,
        "LLAMA31_VENV": str(stand_in(tmp_path / "venv", found)),
        "PREPROCESSED_PATH": str(data),
        "TOKENIZER_PATH": str(directory),
    }

    done = script("preprocessed", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    first, *counts, following = done.stdout.splitlines()
    assert first.startswith(f"{data}: 6 files; fetched ")
    assert counts == [
        f"{data / name}: {file.documents:,} documents, {file.tokens:,} tokens, as published"
        for name, file in found.items()
    ]
    assert following == f"next: TOKENIZER_PATH={directory} bash utils/download_data.sh tokenizer"
    assert all((data / name).read_bytes() == content for name, content in files.items())

    done = command(following.removeprefix("next: "), **environment)
    _, vocabulary, following = done.stdout.splitlines()
    assert vocabulary == f"{directory}: a vocabulary of 512"
    assert server.served < sum(map(len, [*files.values(), *tokenizer.values()])) + 5000, "no weights"

    tiny = "SIZE=tiny DEVICE=cpu SEQ_LENGTH=32 GBS=8 EVAL_SAMPLES=16 JOB_DIR=" + shlex.quote(str(tmp_path))
    assert following.startswith("next: bash run_llama31.sh --dryrun TRAIN_PARTS=6 PREPROCESSED_PATH=")
    done = command(f"{following.removeprefix('next: ')} {tiny}")
    assert done.returncode == 0, done.stderr

    server.forget()
    assert script("preprocessed", **environment).returncode == 0
    assert [request.path.rpartition(".")[2] for request in server.requests] == ["uri", "md5"]


def test_other_data_than_published(server: FileServer, tiny_data: dict[str, str], tmp_path: Path) -> None:
    """Its MD5s are right, but a run with it would not be the benchmark's."""
    server.publish("llama-3-1-8b-preprocessed-c4-dataset", published_files(token_files(tiny_data)))
    done = script("preprocessed", MLCOMMONS_MIRROR=server.url, PREPROCESSED_PATH=str(tmp_path))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(f" MLCommons' has {rules.PART_6_DOCUMENTS:,} of {rules.PART_6_TOKENS:,}")


def test_raw_and_any_other_set(server: FileServer, tmp_path: Path) -> None:
    shards = {"c4-train.00768-of-01024.json": b"{}\n", "c4-train.00000-of-01024.json": b""}
    server.publish("c4-full-dataset-unzipped", shards)
    c4 = tmp_path / "c4"
    done = script("raw", MLCOMMONS_MIRROR=server.url, C4_PATH=str(c4), PARTS="6", JOBS="2")
    assert done.stdout.splitlines()[1] == f"next: C4_PATH={c4} bash utils/parallel_compress_json_to_gz.sh", done.stderr
    assert {path.name for path in c4.glob("c4-*")} == {"c4-train.00768-of-01024.json"}
    uri = server.publish("c4-validation-dataset-zipped", {"c4-validation-91205-samples.en.json.gz": b"gz"})
    done = script(uri, str(tmp_path / "any"))
    assert done.stdout.startswith(f"{tmp_path}/any: 1 files; fetched 2 B in "), done.stderr
    assert (tmp_path / "any" / "c4-validation-91205-samples.en.json.gz").read_bytes() == b"gz"


@pytest.mark.parametrize(
    ("arguments", "environment", "line"),
    [
        (["everything"], {}, "download_data.sh: expected preprocessed, tokenizer [--weights], raw, or URL "),
        (["preprocessed", "--weights"], {}, "download_data.sh: expected preprocessed, "),
        (["raw"], {}, "download_data.sh: C4_PATH: set it to the directory to download to"),
        (["https://example.org/set.uri"], {}, "download_data.sh: https://example.org/set.uri: directory missing; "),
        (["https://example.org/set"], {"to": "d"}, "https://example.org/set: not the URL of a .uri file"),
        (
            ["raw"],
            {"C4_PATH": "c4", "PARTS": "6 9"},
            'PARTS="6 9": 9 is not one of the parts 0 to 7; example: PARTS="6',
        ),
        (["raw"], {"C4_PATH": "c4", "JOBS": "0"}, "Invalid value for '--jobs': "),
        (["raw"], {"C4_PATH": "c4", "MLCOMMONS_MIRROR": "http://example.org"}, "http://example.org: not encrypted; "),
    ],
)
def test_mistakes_are_one_line_at_once(arguments: list[str], environment: dict[str, str], line: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = script(*arguments, *filter(None, [environment.pop("to", "")]), **environment)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith(line)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1, "seconds of one core"


def test_help_is_the_head_of_the_script() -> None:
    done = script("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Downloads the benchmark's data from MLCommons' public storage")
    assert done.stdout.rstrip().endswith('211 GB for PARTS="6 7".')


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_next_run_fetches_only_the_rest(end: signal.Signals, server: FileServer, tmp_path: Path) -> None:
    """Ctrl-C keeps every byte that arrived; SIGKILL all but what was not yet recorded."""
    files = {str(number): random.Random(number).randbytes(6 * MIB) for number in range(2)}
    uri, total, jobs = server.publish("set", files), 12 * MIB, 2
    arguments = [sys.executable, "-c", PIECES + MAIN, "download", uri, str(tmp_path), f"--jobs={jobs}"]
    server.hold_at = 5 * MIB + 100_000  # between two records
    with subprocess.Popen(arguments, cwd=REPOSITORY, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        wait_while(lambda: process.poll() is None and recorded(tmp_path) < 5 * MIB - jobs * MIB // 8)
        before = recorded(tmp_path)
        process.send_signal(end)
        _, errors = process.communicate(timeout=DEADLINE)
    kept = recorded(tmp_path)
    if end is signal.SIGINT:
        assert process.returncode == 130
        assert errors == f"{tmp_path}: interrupted; run the same command to resume\n"
        assert kept > before
    assert not any((tmp_path / name).exists() for name in files)
    server.hold_at = None
    server.forget()
    done = command(shlex.join(arguments))
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / name).read_bytes() == content for name, content in files.items())
    assert server.served < total - kept + MIB // 8


def recorded(directory: Path) -> int:
    """Bytes of partial files that a next run does not fetch."""
    lines = [line.split() for path in directory.glob("*.pieces") for line in path.read_text().splitlines()[1:]]
    return sum(int(line[1]) - int(line[0]) for line in lines if len(line) == 2)
