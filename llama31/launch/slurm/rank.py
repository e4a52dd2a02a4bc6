"""One rank of a Slurm job: python3 -m llama31.launch.slurm.rank JOB_DIR, a task of srun.

It makes sure that the settings arrived, says in torch's variables which rank it is, and becomes what every rank runs.
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
    """Becomes the rank; does not return unless something is wrong."""
    # The time limit's warning would end a process that does not listen yet; so it waits until this rank does.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        env_check.check(job_dir)
        settings = record.load_settings(job_dir)
        environment = rank_command.environment(settings, {**os.environ, **rank_variables(settings)})
    except UserError as error:
        _tell(job_dir, "; ".join(error.lines))
        sys.exit(BAD_INPUT)
    command = rank_command.command(job_dir)
    os.execve(command[0], command, environment)


def _tell(job_dir: Path, reason: str) -> None:
    """Writes down why the job ends, which its last step prints once for all ranks; else prints it."""
    try:
        record.store_outcome(job_dir, Outcome(ABORTED, reason, BAD_INPUT, 0, 0))
    except OSError:  # this node does not see the directory, or cannot write there
        print(reason, file=sys.stderr, flush=True)


def rank_variables(settings: Settings) -> dict[str, str]:
    """Torch's names for what srun tells each task. Raises UserError where srun started other tasks than asked for."""
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
