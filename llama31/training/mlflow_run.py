"""MLflow: one run for all jobs of a chain, found again by its id."""

from collections.abc import Mapping

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from llama31.common.errors import UserError

EXPERIMENT = "llama31"
ID_TAG = "llama31.run"
"""Tag with the name of a run in this project, which all of its jobs share; MLflow gives ids of its own."""

_current: "MlflowRun | None" = None  # of rank 0


class MlflowRun(MLFlowLogger):
    """Lightning's logger of MLflow, which continues the run of an earlier job of the same name.

    A thread sends figures, so that no step waits for the server; `finish` sends the rest. Raises UserError if the
    server does not answer at the start.
    """

    def __init__(self, name: str, uri: str):
        super().__init__(EXPERIMENT, run_name=name, tracking_uri=uri, tags={ID_TAG: name}, synchronous=False)
        if rank_zero_only.rank == 0:
            try:
                self._continue(name)
            except Exception as error:
                why = str(error).partition("\n")[0]
                raise UserError(f"MLFLOW_TRACKING_URI={uri}: {why}; start that server, or leave it empty") from error
            global _current  # noqa: PLW0603 - a process has one run
            _current = self

    def _continue(self, name: str) -> None:
        """Take the run of earlier jobs if there is one, else make one."""
        experiment = self._mlflow_client.get_experiment_by_name(EXPERIMENT)
        quoted = name.replace("'", "''")
        ids = [experiment.experiment_id] if experiment else []
        wanted = f"tags.`{ID_TAG}` = '{quoted}'"
        found = self._mlflow_client.search_runs(ids, wanted, max_results=1) if ids else []
        if found:
            self._run_id = found[0].info.run_id
            self._mlflow_client.update_run(self._run_id, status="RUNNING")
        _ = self.run_id  # makes it

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send figures of a step. Lightning gives its number as a float, which MLflow would reject in its thread."""
        super().log_metrics(metrics, None if step is None else int(step))

    def finalize(self, status: str = "success") -> None:
        """Do nothing: Lightning knows less about the end than `finish`."""


def finish(exit_code: int) -> None:
    """Send the rest, and set the status of this process's run, if it has one; as Weights & Biases names them."""
    if _current:
        import mlflow

        mlflow.flush_async_logging()
        _current.experiment.set_terminated(_current.run_id, "FINISHED" if exit_code == 0 else "FAILED")
