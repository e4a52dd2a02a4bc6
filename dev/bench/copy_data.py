"""Measure copies of token files (COPY_DATA_TO), compared with cp, sync and sha256sum of source and copy.

    python3 -m dev.bench.copy_data DIRECTORY [--megabytes 512] [--rounds 3]

Writes random files with the names of a training part and the validation set to DIRECTORY, and copies them there in
turns, from the page cache. Prints seconds, processor time and the ratio of the medians. Both read the source once and
the copy once; ours hashes while it reads, and reads the copy from the disk.
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path

from dev.bench import harness
from llama31.config import paths
from llama31.data import node_copy
from llama31.data.token_file import bin_path, idx_path
from llama31.settings import Settings

BLOCK = 4 << 20
SHARES = {bin_path: 0.98, idx_path: 0.02}  # about C4's


def write(settings: Settings, size: int) -> None:
    """Write the files of a run, `size` bytes for the training part and a hundredth of it for the validation set."""
    block = os.urandom(BLOCK)
    for prefix, of in ((paths.train_prefixes(settings)[0], size), (paths.validation_prefix(settings), size // 100)):
        for path_of, share in SHARES.items():
            with path_of(prefix).open("wb") as file:
                for _ in range(max(1, round(of * share / BLOCK))):
                    file.write(block)
                os.fsync(file.fileno())


def timed(copies: Path, work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds and the processor time of a copy to a directory, which is new each time."""
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    began, before = time.perf_counter(), os.times()
    work()
    return time.perf_counter() - began, sum(os.times()[:4]) - sum(before[:4])


def main() -> None:
    """Run the bench."""
    parser = harness.parser(__doc__, directory=True)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with harness.temporary_directory(options.directory) as directory:
        source, copies = directory / "shared", directory / "node"
        source.mkdir()
        settings = Settings(preprocessed_path=str(source), copy_data_to=str(copies), train_parts="6")
        write(settings, options.megabytes * 10**6)
        script = 'cp -p "$1"/* "$2" && sync "$2"/* && sha256sum "$1"/* "$2"/*'

        def ours() -> None:
            with contextlib.redirect_stdout(StringIO()):
                node_copy.ensure(settings)

        def plain() -> None:
            subprocess.run(["sh", "-c", script, "sh", source, copies], check=True, stdout=subprocess.DEVNULL)

        found = harness.alternate(
            {"ours": lambda: timed(copies, ours), "cp, sync, sha256sum": lambda: timed(copies, plain)}, options.rounds
        )
    for name, results in found.items():
        seconds, processor = zip(*results, strict=True)
        print(f"{name:<20} {statistics.median(seconds):6.2f} s, processor {statistics.median(processor):6.2f} s")
    for place, what in enumerate(("seconds", "processor time")):
        one, other = ([result[place] for result in results] for results in found.values())
        print(f"{what}, ours / theirs: {harness.spread(harness.ratios(one, other), '.2f')}")


if __name__ == "__main__":
    main()
