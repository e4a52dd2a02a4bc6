"""One rank of a Slurm job: python3 -m llama31.launch.slurm.rank JOB_DIR, a task of srun.

It checks that the job's variables arrived, sets torch's variables for its rank, and executes the command of a rank.
"""

import os
import signal
import sys
from pathlib import Path

from llama31.common.errors import UserError
from llama31.config.parallel_layout import Layout
from llama31.launch import rank_command
from llama31.launch.slurm import env_check
from llama31.run_dir import record
from llama31.run_dir.events import ABORTED, BAD_INPUT, Outcome
from llama31.settings import Settings


def main(job_dir: Path) -> None:
    """Execute the command of a rank in place of this process; exit with BAD_INPUT if something is wrong."""
    # The warning of the time limit would end a process without a handler, so block it until the rank has one.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        env_check.check(job_dir)
        settings = record.load_settings(job_dir)
        environment = rank_command.environment(settings, {**os.environ, **rank_variables(settings)})
    except UserError as error:
        _report(job_dir, "; ".join(error.lines))
        sys.exit(BAD_INPUT)
    command = rank_command.command(job_dir)
    os.execve(command[0], command, environment)


def _report(job_dir: Path, reason: str) -> None:
    """Store the reason as the outcome, which the job's last step prints once for all ranks; otherwise print it."""
    try:
        record.store_outcome(job_dir, Outcome(ABORTED, reason, BAD_INPUT, 0, 0))
    except OSError:  # this node cannot see the directory, or cannot write to it
        print(reason, file=sys.stderr, flush=True)


def rank_variables(settings: Settings) -> dict[str, str]:
    """Return srun's variables under torch's names. Raises UserError if srun started another number of tasks."""
    world_size = Layout.of(settings).world_size
    started = os.environ.get("SLURM_NTASKS", "none")
    if started != str(world_size):
        raise UserError(
            f"NNODES*GPUS_PER_NODE={settings.nnodes}*{settings.gpus_per_node}: srun started {started} tasks; "
            "leave options that change their number out of SBATCH_ARGS"
        )
    return {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "NODE_RANK": os.environ["SLURM_NODEID"],
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(settings.gpus_per_node),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
