"""MLFLOW_TRACKING_URI, with MLflow's own server: the jobs of a chain are one run there."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from mlflow_server import mlflow_server
from runs import CUT_RUN, run_forked

from llama31.config import paths
from llama31.run_dir.events import BAD_INPUT, TARGET_NOT_REACHED
from llama31.training.mlflow_run import EXPERIMENT

RUN = {**CUT_RUN, "MOCK_DATA": 1, "EVAL_EVERY": 32}


@pytest.mark.slow
def test_the_jobs_of_a_chain_are_one_run(tmp_path: Path) -> None:
    with mlflow_server(tmp_path) as address:
        saving = {"SAVE_CKPT": 1, "CONTINUAL_CKPT": tmp_path / "checkpoints"}
        given = {**RUN, "JOB_DIR": tmp_path / "runs", "MLFLOW_TRACKING_URI": address, **saving}
        first = run_forked({**given, "STOP_AT_STEP": 3})
        assert first.exit_code == TARGET_NOT_REACHED, first.printed + first.logs()
        second = run_forked({**given, "STOP_AT_STEP": 5})
        assert second.exit_code == TARGET_NOT_REACHED, second.printed + second.logs()

        client = MlflowClient(address)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.run_name == first.run_dir.name, "the name that Weights & Biases and the checkpoints have too"
        assert run.info.status == "FAILED", "the target was not reached"
        logged = client.get_metric_history(run.info.run_id, "reduced_train_loss")
        losses = {event["step"]: event["loss"] for event in second.events("step")}
        assert {figure.step: figure.value for figure in logged} == pytest.approx(losses), "no step missing"
        assert len(logged) == len(losses) == 5, "and none twice"
        evaluated = client.get_metric_history(run.info.run_id, "val_loss")
        assert [figure.step for figure in evaluated] == [4]


@pytest.mark.slow
def test_a_server_that_does_not_answer_ends_the_run_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = run_forked({**RUN, "JOB_DIR": tmp_path, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "STOP_AT_STEP": 1})
    assert run.exit_code == BAD_INPUT
    assert "MLFLOW_TRACKING_URI=http://127.0.0.1:9: " in run.outcome.reason
    assert not (run.run_dir / paths.METRICS).exists(), "no step"
