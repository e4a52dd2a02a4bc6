"""Measure for how long training waits while a checkpoint is saved, and how it slows down, on two CPU ranks.

    python3 -m dev.bench.save [--rounds 5] [--quiet 6] [NAME=value ...]

One run of the demo's model, 27.8 million parameters, saves in turns, in the same process:

    synchronous   this project with SAVE_ASYNC=0: written, flushed, read back and hashed while training waits
    ours          this project with SAVE_ASYNC=1: the same in the background
    peer          NeMo's own asynchronous save (AsyncFinalizableCheckpointIO), same format: written and flushed

After each save come --quiet steps without any. Prints the medians and ranges over the rounds, of rank 0:

    waited    seconds for which steps were held up, and the ratio to the synchronous save of the same round
    slower    mean of the steps during a save / mean of the quiet steps after it
    whole     seconds until the checkpoint was complete, for asynchronous saves up to the end of the step
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from dev.bench import harness, random_data
from dev.bench.save_rank import MODES
from llama31.launch import prepare, rank_command, run_directory
from llama31.plan.plan import Plan

VOCABULARY = 4096
TOKENS = 4_000_000
GIVEN = {
    "SIZE": "demo",
    "DEVICE": "cpu",
    "GPUS_PER_NODE": "2",
    "PRECISION": "fp32",
    "SEQ_LENGTH": "256",
    "GBS": "8",
    "MBS": "4",
    "EVAL_SAMPLES": "8",
    "EVAL_EVERY": "1000000",
    "SEEDS": "1",
    "SAVE_CKPT": "1",
    "SAVE_ASYNC": "1",
    "KEEP_LAST": "1",
}
TABLE = harness.Table(
    harness.Column("", 12, left=True),
    harness.Column("waited, s", 24),
    harness.Column("/ synchronous", 24),
    harness.Column("slower", 22),
    harness.Column("whole, s", 24),
)


def measure(directory: Path, assignments: list[str], rounds: int, quiet: int) -> list[dict[str, dict[str, float]]]:
    """Train, and return what rank 0 measured: for each round and mode, `waited`, `slower` and `whole`."""
    given = GIVEN | random_data.make(directory, VOCABULARY, TOKENS)
    given |= {"JOB_DIR": str(directory / "runs"), "CONTINUAL_CKPT": str(directory / "checkpoints")}
    resolved, data = prepare.checked([*(f"{name}={value}" for name, value in given.items()), *assignments], {})
    settings = resolved.settings
    run_dir = run_directory.make(settings)
    run_directory.begin(run_dir, Plan(resolved, data, []), assignments, [], {})
    results = directory / "results.json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ranks = [f"--nproc-per-node={settings.gpus_per_node}", "--module", "dev.bench.save_rank"]
    command = [*torchrun, *ranks, str(run_dir), str(results), str(rounds), str(quiet)]
    environment = {**rank_command.environment(settings, os.environ), "PYTHONPATH": str(harness.REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if not results.exists():
        logs = "".join(log.read_text()[-3000:] for log in run_dir.rglob("rank-*.log"))
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-3000:]}{logs}")
    found: list[dict[str, dict[str, float]]] = json.loads(results.read_text())
    return found


def main() -> None:
    """Run the bench."""
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quiet", type=int, default=6, help="steps after each save")
    parser.add_argument("settings", nargs="*", metavar="NAME=value")
    options = parser.parse_args()
    with harness.temporary_directory() as directory:
        rounds = measure(directory, options.settings, options.rounds, options.quiet)
    print(f"{statistics.median(found['ours']['quiet'] for found in rounds):.3f} s per quiet step")
    print(TABLE.head())
    for mode in MODES:
        values = {key: [found[mode][key] for found in rounds] for key in ("waited", "slower", "whole")}
        ratios = harness.ratios(values["waited"], [found["synchronous"]["waited"] for found in rounds])
        slower = harness.spread(values["slower"], ".2f") if mode != "synchronous" else None
        waited, whole = (harness.spread(values[key], ".2f") for key in ("waited", "whole"))
        print(TABLE.row(mode, waited, harness.spread(ratios, ".3f"), slower, whole))


if __name__ == "__main__":
    main()
