"""Jobs that a user cancels, on a real Slurm: how their logs end. The ranks are stand-ins. 10 s."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_in
from cluster import Cluster
from containers import containers

from dev.support.submitted import submit

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def patient() -> Iterator[Cluster]:
    """A cluster that gives cancelled jobs Slurm's default time to end."""
    with Cluster.started({"more.conf": "KillWait=30\n"}) as cluster:
        yield cluster


END = "llama31.launch.slurm.job on n1 with no GPUs"
"""What the stand-in for `end` prints."""
NO_STEP = "job {job} is being cancelled; for its state: python3 -m llama31 status {run_dir}"


@pytest.mark.parametrize(
    ("container", "last"),
    [
        ({}, END),
        ({"IMAGE": "docker://a:1", "CONTAINER": "apptainer"}, END),
        ({"IMAGE": "a#b:1", "CONTAINER": "pyxis"}, NO_STEP),
    ],
    ids=["no container", "apptainer", "pyxis"],
)
def test_log_of_a_cancelled_job_ends_with_how_it_ended(
    container: dict[str, str], last: str, patient: Cluster, tiny_data: dict[str, str], tmp_path: Path
) -> None:
    """Slurm refuses further steps, and srun would say so in its place."""
    hold = tmp_path / "hold"
    settings: dict[str, Any] = stand_in.settings(tmp_path / "code", hold)
    path = containers(tmp_path / "bin")
    (tmp_path / "bin" / "python3").write_text((tmp_path / "code" / ".venv" / "bin" / "python").read_text())
    if container:
        del settings["CODE_PATH"]
    hold.touch()
    of_run = {**settings, **tiny_data, **container, "DEVICE": "cpu", "JOB_DIR": tmp_path / "runs", "MAX_RETRIES": 1}
    (run,) = submit(patient, of_run, PATH=path, IMAGE_SETS="A=b")
    (job,) = run.jobs
    patient.until("the ranks start", lambda: run.log(job).count("llama31.launch.slurm.rank on ") == 2)
    patient.ask("scancel", job)
    run.ended(job)
    assert patient.state(job) == "CANCELLED"
    lines = run.log(job).splitlines()
    wanted = last.format(job=job, run_dir=run.run_dir)
    assert wanted in lines[lines.index("llama31.launch.slurm.rank on n1 with no GPUs") :], lines
    refused = ("Unable to create step", "Expired or invalid job")
    assert not [line for line in lines if any(words in line for words in refused)]
