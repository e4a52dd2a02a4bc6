"""Steps of a Slurm job before and after its ranks: python3 -m llama31.launch.slurm.job begin|node|end JOB_DIR ...

`begin` checks settings, data and checkpoints as a run on one machine does, and fills the job's directory so that the
ranks can start. If nothing is left to do it leaves the directory empty, and its exit code is the job's.
`node`, on each node, copies what the ranks read there; if it fails, the run ends.
`end` prints the outcome, and its exit code is the job's.
"""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.config import paths
from llama31.launch import node_steps, out_of_memory, prepare, rank_command, run_directory
from llama31.launch.slurm import env_check
from llama31.run_dir import cache_log, job_chain, record, time_limit_warning
from llama31.run_dir.events import ABORTED, BAD_INPUT, INTERRUPTED, Outcome
from llama31.settings import names

LOCKS_OUTLIVE_NODES = 150  # seconds: NFS keeps the locks of a lost node until its lease ends, by default after 90 s


def main(arguments: Sequence[str]) -> int:
    """Run one step. Returns the exit code; a UserError is printed on standard error."""
    what, job_dir, *rest = arguments
    try:
        if what == "begin":
            return begin(Path(job_dir), rest[1::2])
        return node(Path(job_dir)) if what == "node" else end(Path(job_dir), int(rest[0]))
    except UserError as error:
        print("\n".join(error.lines), file=sys.stderr, flush=True)
        return BAD_INPUT


def begin(job_dir: Path, allowed: Sequence[str]) -> int:
    """Fill the job's directory for its ranks. `allowed` names the settings that a resumed run may change."""
    signal.signal(signal.SIGUSR1, _time_is_up)
    time_limit_warning.watch(job_dir)
    env_check.check(job_dir)
    assignments = [f"{name}={os.environ.get(name, '')}" for name in names()]
    resolved, data = prepare.checked(assignments, {})
    resolved = replace(resolved, origins=dict.fromkeys(resolved.origins, paths.SCRIPT))
    prepare.refuse_missing_gpus(resolved.settings)
    command = rank_command.command(job_dir)
    prepared = prepare.prepare(resolved, data, allowed, command, thorough=True)
    if prepared.outcome:
        return prepared.say_finished()
    prepared.make_room(LOCKS_OUTLIVE_NODES)
    plan = prepared.plan
    with failures_named(job_dir):
        run_directory.begin(job_dir, plan, assignments, command, rank_command.environment(plan.settings, os.environ))
        run_directory.name_latest(job_dir.parent)
    print(f"{plan.summary()}  seed {plan.settings.seeds}\n{_begins(job_dir)}", flush=True)
    return 0


def node(job_dir: Path) -> int:
    """Prepare this node. Returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGUSR1, signal.default_int_handler)
    time_limit_warning.watch(job_dir)
    refusal = node_steps.prepare(job_dir, record.load_settings(job_dir))
    return refusal.exit_code if refusal else 0


def _time_is_up(_: int, __: FrameType | None) -> None:
    print("the time limit was reached before training started; a longer TIME works", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


def end(job_dir: Path, returncode: int) -> int:
    """Print the outcome of a job whose ranks have exited, srun with `returncode`. Returns its exit code."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the warning has been handled
    log = job_dir.parent / paths.slurm_log(job_chain.job_of(job_dir))
    report = out_of_memory.slurm_report(log, since=_begins(job_dir))
    settings = record.load_settings(job_dir)
    if settings.clear_caches and returncode and not cache_log.were_cleared(job_dir, settings):
        record.store_outcome(job_dir, Outcome(ABORTED, cache_log.failure(job_dir), BAD_INPUT, 0, 0))
    return run_directory.end(job_dir, settings, returncode, "srun", log=log, out_of_memory=report)


def _begins(job_dir: Path) -> str:
    """Return the line of the job's log after which its ranks start."""
    return f"run directory: {job_dir}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
