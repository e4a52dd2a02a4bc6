"""Train for long in a chain of jobs that are interrupted at random, and check that it equals an undisturbed run.

    python3 -m dev.soak DIRECTORY [--steps 2000] [--cuts 19] [--networks] [--way WAY ...] [--seed 0] [--minutes M]
        [NAME=value ...]

On a real Slurm of two nodes (dev/slurm_cluster.sh, which needs root) a reference run trains in one job. The same run is
then submitted as a chain, both saving every 5 steps. The jobs of the chain are interrupted at random steps: by the time
limit, by scancel, by losing a node, by SIGKILL or SIGTERM to a rank, or, with --networks, by cutting a node off, which
the ranks notice after HANG_MINUTES. Each job must resume from the newest complete
checkpoint. The last job is not interrupted. Then must hold:

- losses, evaluations, weights, optimizer, schedule and random states equal the reference's to the bit;
- the check of the chain's log finds nothing but the end before the target;
- TensorBoard's curves have every step once;
- the memory of each rank in the last 50 steps of the reference is within 2% of that in the 50 after step 100.

Settings are given as for run_llama31.sh. Another call with the same DIRECTORY continues with the remaining cuts.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

from dev.support import rank_memory, same_run
from dev.support.interruptions import CUT_NETWORK, SIGNAL_BEFORE_END, WAYS, interrupt
from dev.support.slurm_cluster import Cluster
from dev.support.submitted import Submitted, submit
from llama31.config import paths
from llama31.run_dir.events import TARGET_NOT_REACHED

SAVE_EVERY = 5
MAX_RETRIES = 1
SETTLED = 100  # steps after which memory has settled
SPAN = 50  # steps over which it is measured
GROWTH = 0.02  # of the memory of a rank, allowed from then on


def check_start(run: Submitted, job: str, restarts: int, expected: Path | None) -> None:
    """Exit with an error unless a job resumed from the newest checkpoint."""
    start = json.loads((run.job_dir(job, restarts) / paths.START).read_text())
    if start["checkpoint"] != str(expected or ""):
        raise SystemExit(
            f"job {job} resumed from {start['checkpoint'] or 'none'}, not from {expected or 'none'}:\n{run.log(job)}"
        )


def train_reference(cluster: Cluster, settings: dict[str, object], root: Path, steps: int) -> list[str]:
    """Train without interruption. Return how the memory of the ranks has changed, a line for each."""
    (run,) = submit(cluster, {**settings, "CONTINUAL_CKPT": root}, OMP_NUM_THREADS="1")
    samples = rank_memory.watch(run, run.jobs[0], min(SETTLED, steps // 2))
    check_end(run, run.jobs[0])
    if (end := run.latest_step(run.jobs[0])) < steps:
        raise SystemExit(f"the data ends after step {end}; give more of it, or --steps={end}")
    first, last = samples[0].step, samples[-1].step
    return [
        f"memory of rank {rank}: {found.last / 1e6:.1f} MB, {found.grown:+.2%} from step {first} to step {last}"
        + (f", more than {GROWTH:.0%}" if abs(found.grown) > GROWTH and first >= SETTLED else "")
        for rank, found in rank_memory.changes(samples, SPAN).items()
    ]


def check_end(run: Submitted, job: str, restarts: int = 0) -> None:
    """Wait for a job to end at STOP_AT_STEP. Exits with an error if it ends otherwise."""
    run.cluster.ended(job, deadline=math.inf)
    ended = run.ended(job, restarts)
    if ended.exit_code != TARGET_NOT_REACHED:
        raise SystemExit(f"exit code {ended.exit_code}:\n{ended.printed}")


def cut_chain(run: Submitted, root: Path, options: argparse.Namespace, done: int, tally: Path) -> tuple[str, int]:
    """Interrupt the jobs of the chain. Return the job that continues to the end, and how often it was queued again."""
    began = time.monotonic()
    jobs, restarts = iter(run.jobs), 0
    job = next(jobs)
    between = options.steps / (options.cuts + 1)  # steps
    for number in range(done + 1, options.cuts + 1):
        if time.monotonic() - began > 60 * options.minutes:
            raise SystemExit(f"{number - 1} of {options.cuts} cuts; repeat the command for the rest")
        chance = random.Random(f"{options.seed} {number}")
        way, step = chance.choice(options.ways), round(between * (number - chance.random()))
        before = same_run.newest(root)
        run.after_a_step(job, restarts)
        check_start(run, job, restarts, before)
        run.reaches(step, job, restarts)
        interrupt(run, job, restarts, way, chance)
        left = same_run.newest(root)
        line = f"cut {number}: {run.job_dir(job, restarts).name}, {way}, at step {run.latest_step(job, restarts)}"
        line += f"; newest {left.name if left else 'none'}; {time.monotonic() - began:.0f} s"
        with tally.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)
        restarts += 1
        if run.restarts(job) < restarts or restarts > MAX_RETRIES:
            job, restarts = next(jobs), 0
    return job, restarts


def campaign(cluster: Cluster, directory: Path, options: argparse.Namespace, given: dict[str, str]) -> None:
    """Train the reference and the chain, and compare them. Exits with an error if they differ."""
    tally, memory, uncut, root = (directory / name for name in ("cuts.txt", "memory.txt", "reference", "cut"))
    settings = {
        **given,
        "PARTITION": "debug",
        "NNODES": 2,
        "SEEDS": 1,
        "STOP_AT_STEP": options.steps,
        "TIME": 60,
        "SAVE_CKPT": 1,
        "SAVE_EVERY": SAVE_EVERY,
        "JOB_DIR": directory / "runs",
    }
    if not memory.is_file():
        memory.write_text("\n".join(train_reference(cluster, settings, uncut, options.steps)))
    print(memory.read_text(), flush=True)

    done = len(tally.read_text().splitlines()) if tally.is_file() else 0
    limits = {"SIGNAL_BEFORE_END": SIGNAL_BEFORE_END, "MAX_RETRIES": MAX_RETRIES, "NPAR": options.cuts - done + 1}
    (run,) = submit(cluster, {**settings, **limits, "CONTINUAL_CKPT": root}, OMP_NUM_THREADS="1")
    job, restarts = cut_chain(run, root, options, done, tally)
    check_end(run, job, restarts)
    for rest in run.jobs[run.jobs.index(job) + 1 :]:  # the run has ended before they start
        cluster.ended(rest)

    ours, theirs, job_dir = same_run.newest(root), same_run.newest(uncut), run.job_dir(job, restarts)
    assert ours and theirs
    found = [line for line in memory.read_text().splitlines() if "more than" in line]
    found += [f"{ours} differs from {theirs}: {name}" for name in same_run.differences(ours, theirs)]
    found += [f"{job_dir}: {complaint}" for complaint in same_run.complaints(job_dir)]
    found += [f"TensorBoard's {gap}" for gap in same_run.tensorboard_gaps(run.run_dir, job_dir)] if not done else []
    if found:
        raise SystemExit("\n".join(found))
    print(f"{options.cuts} cuts: losses, evaluations and state after step {options.steps} equal the reference's")


def main() -> None:
    """Start a cluster, run the campaign on it, and stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--cuts", type=int, default=19, help="interruptions; one job more than this trains")
    parser.add_argument("--seed", type=int, default=0, help="of the random steps and ways")
    parser.add_argument("--minutes", type=float, default=math.inf, help="interrupt no job after this time")
    parser.add_argument("--networks", action="store_true", help="nodes in networks of their own, which are cut")
    parser.add_argument(
        "--way", action="append", dest="ways", choices=WAYS, metavar="WAY", help=f"of {', '.join(WAYS)}; default: all"
    )
    options, given = parser.parse_known_args()
    options.ways = options.ways or [way for way in WAYS if way != CUT_NETWORK or options.networks]
    directory = options.directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(directory / "slurm", options.networks)
    cluster.control("start")
    try:
        campaign(cluster, directory, options, dict(setting.split("=", 1) for setting in given))
    finally:
        cluster.control("stop")


if __name__ == "__main__":
    main()
