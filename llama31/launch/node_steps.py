"""What a node does before the ranks of a run start on it."""

from pathlib import Path

from llama31.common.errors import UserError
from llama31.data import node_copy
from llama31.launch import caches
from llama31.run_dir import record
from llama31.run_dir.events import ABORTED, BAD_INPUT, INTERRUPTED, Outcome
from llama31.settings import Settings


def prepare(run_dir: Path, settings: Settings) -> Outcome | None:
    """Copy the token files to this node. Return None, or the stored outcome of a run that cannot start.

    A run without Slurm also empties the caches here; in a job that is done outside of the container.
    """
    try:
        if settings.copy_data_to:
            node_copy.ensure(settings)
        if settings.clear_caches and not settings.partition and (failure := caches.clear(run_dir, settings)):
            raise UserError(failure)
    except UserError as error:
        return record.store_outcome(run_dir, Outcome(ABORTED, "; ".join(error.lines), BAD_INPUT, 0, 0))
    except KeyboardInterrupt:
        reason = "interrupted before training started"
        return record.store_outcome(run_dir, Outcome(ABORTED, reason, INTERRUPTED, 0, 0))
    return None
