"""Interrupt the jobs of a chain at random moments, in every way a cluster can, and check that nothing is lost.

    python3 -m dev.cut_jobs DIRECTORY [--cuts 20] [--seconds 3] [--seed 0] [--minutes M] [NAME=value ...]

On a real Slurm of two nodes (dev/slurm_cluster.sh, which needs root) a reference run trains in one job. The same run,
saving after every other step, is then submitted as a chain, and each job is interrupted some seconds after its first
step: by its time limit, by scancel, by losing a node, or by killing a rank. Each job must resume from the newest
complete checkpoint. The last job is not interrupted: its losses, weights and optimizer state must equal the reference's
to the bit. Settings are given as for run_llama31.sh. Another call with the same DIRECTORY continues with the remaining
interruptions.
"""

import argparse
import json
import os
import random
import signal
import time
from pathlib import Path

from dev.support.slurm_cluster import ENDED, Cluster
from dev.support.submitted import Submitted, submit
from dev.support.tensors import different, tensors
from llama31.checkpoint import store
from llama31.config import paths
from llama31.run_dir.events import TARGET_NOT_REACHED

STEPS_PER_CUT = 15  # of the reference: enough that the run does not end before the last interruption
SIGNAL_BEFORE_END = 1  # seconds before the time limit of one minute
MAX_RETRIES = 1
WAYS = ("time limit", "scancel", "lost node", "killed rank")


def cut(run: Submitted, job: str, restarts: int, way: str, seconds: float, chance: random.Random) -> None:
    """Interrupt a job `seconds` after its first step."""
    ranks = run.after_a_step(job, restarts)
    time.sleep(seconds)
    if way == "time limit":
        with run.held(ranks.values()):
            run.warned(job, restarts)
    elif way == "scancel":
        run.cluster.ask("scancel", job)
    elif way == "lost node":
        node = chance.choice(("n1", "n2"))
        run.cluster.lose(node, job)
        run.cluster.until(f"job {job} is off the nodes", lambda: run.cluster.state(job) in ("PENDING", *ENDED))
        run.cluster.bring_back(node)
    else:
        os.kill(chance.choice(list(ranks.values())), signal.SIGKILL)
    run.cluster.until(f"job {job} has ended", lambda: run.cluster.state(job) in ENDED or _restarts(run, job) > restarts)


def _restarts(run: Submitted, job: str) -> int:
    return int(run.cluster.shown(job)["Restarts"])


def check_start(run: Submitted, job: str, restarts: int, expected: Path | None) -> None:
    """Exit with an error unless a job resumed from the newest checkpoint."""
    start = json.loads((run.job_dir(job, restarts) / paths.START).read_text())
    if start["checkpoint"] != str(expected or ""):
        raise SystemExit(
            f"job {job} resumed from {start['checkpoint'] or 'none'}, not from {expected or 'none'}:\n{run.log(job)}"
        )


def newest(root: Path) -> Path | None:
    """Return the newest complete checkpoint, None if there is none."""
    found = store.listing(root)
    return found[0].path if found else None


def losses(checkpoint: Path) -> list[tuple[int, float]]:
    """Return step and loss of each step and evaluation up to a checkpoint."""
    events = [json.loads(line) for line in (checkpoint / paths.METRICS).read_text().splitlines()]
    return [(event["step"], event["loss"]) for event in events if "loss" in event]


def to_the_end(run: Submitted, job: str, restarts: int = 0) -> None:
    """Wait for a job to end at STOP_AT_STEP. Exits with an error if it ends otherwise."""
    ended = run.ended(job, restarts)
    if ended.exit_code != TARGET_NOT_REACHED:
        raise SystemExit(f"exit code {ended.exit_code}:\n{ended.printed}")


def main() -> None:
    """Start a cluster, run the campaign on it, and stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3, help="interrupt within this time after the first step")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and ways")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="interrupt no job after this time")
    options, given = parser.parse_known_args()
    directory = options.directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(directory / "slurm")
    cluster.control("start")
    try:
        campaign(cluster, directory, options, dict(setting.split("=", 1) for setting in given))
    finally:
        cluster.control("stop")


def campaign(cluster: Cluster, directory: Path, options: argparse.Namespace, given: dict[str, str]) -> None:
    """Run the reference and the chain, and compare them."""
    began = time.monotonic()
    tally, uncut, root = (directory / name for name in ("cuts.txt", "reference", "cut"))
    last_step = options.cuts * STEPS_PER_CUT
    two_nodes = {"PARTITION": "debug", "NNODES": 2, "SAVE_CKPT": 1, "SEEDS": 1, "STOP_AT_STEP": last_step}
    settings = {**given, **two_nodes, "JOB_DIR": directory / "runs"}
    if not newest(uncut):
        (reference,) = submit(cluster, {**settings, "CONTINUAL_CKPT": uncut}, OMP_NUM_THREADS="1")
        to_the_end(reference, reference.jobs[0])

    done = len(tally.read_text().splitlines()) if tally.is_file() else 0
    limits = {
        "TIME": 1,
        "SIGNAL_BEFORE_END": SIGNAL_BEFORE_END,
        "MAX_RETRIES": MAX_RETRIES,
        "NPAR": options.cuts - done + 1,
        "SAVE_EVERY": 2,
    }
    (run,) = submit(cluster, {**settings, **limits, "CONTINUAL_CKPT": root}, OMP_NUM_THREADS="1")
    jobs, restarts = iter(run.jobs), 0
    job = next(jobs)
    for number in range(done + 1, options.cuts + 1):
        if time.monotonic() - began > 60 * options.minutes:
            raise SystemExit(f"{number - 1} of {options.cuts} cuts; repeat the command for the rest")
        chance = random.Random(f"{options.seed} {number}")
        way, seconds = chance.choice(WAYS), chance.uniform(0, options.seconds)
        limit = 1 if way == "time limit" else 30
        cluster.ask("scontrol", "update", f"jobid={job}", f"timelimit={limit}")
        before = newest(root)
        cut(run, job, restarts, way, seconds, chance)
        check_start(run, job, restarts, before)
        steps = run.steps(job, restarts)[-1]
        if steps >= last_step:
            raise SystemExit(f"the run ended before it was cut; increase STEPS_PER_CUT={STEPS_PER_CUT}")
        left = newest(root)
        line = f"cut {number}: {run.job_dir(job, restarts).name}, {way} {seconds:.2f} s after a step, at step {steps}"
        line += f"; newest {left.name if left else 'none'}; {time.monotonic() - began:.0f} s"
        with tally.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)
        restarts += 1
        if _restarts(run, job) < restarts or restarts > MAX_RETRIES:
            job, restarts = next(jobs), 0
    cluster.ask("scontrol", "update", f"jobid={job}", "timelimit=30")
    to_the_end(run, job, restarts)
    ours, theirs = newest(root), newest(uncut)
    assert ours and theirs
    if losses(ours) != losses(theirs):
        raise SystemExit(f"the losses of {ours} differ from those of {theirs}")
    if names := different(tensors(ours), tensors(theirs)):
        raise SystemExit(f"{ours} differs from {theirs}: {names}")
    rest = [cluster.ended(rest) for rest in jobs]
    print(f"{options.cuts} cuts: losses, weights and optimizer state after step {last_step} equal the reference's")
    if not set(rest) <= {"COMPLETED", "FAILED"}:  # the run had ended before they started
        raise SystemExit(f"the remaining jobs ended as {rest}")


if __name__ == "__main__":
    main()
