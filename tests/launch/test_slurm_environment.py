"""Variables that Slurm's commands take for options (slurm/environment.sh): where one submits, and within jobs. 10 s."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_in
from cluster import Cluster
from hostile import HOSTILE, REACHES_THE_CLUSTER

from dev.support.submitted import Submitted, submit
from llama31.config import paths
from llama31.launch import remote_shell
from llama31.launch.slurm import job_states

BY_HAND = {name: value for name, value in HOSTILE.items() if not name.startswith("SBATCH")}
"""Those that are no affair of sbatch's, which a user may call as well."""
Submit = Callable[..., Submitted]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Path]:
    """A file that holds the ranks while it is there."""
    file = tmp_path / "hold"
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture
def submit_stand_in(cluster: Cluster, tiny_data: dict[str, str], tmp_path: Path, hold: Path) -> Submit:
    """Submits a run of two nodes whose ranks are stand-ins, from a shell with HOSTILE variables, and others."""
    settings: dict[str, Any] = {**stand_in.settings(tmp_path / "code", hold), **tiny_data, "DEVICE": "cpu"}

    def submit_it(exported: dict[str, str] | None = None, **more: object) -> Submitted:
        run = {**settings, "JOB_DIR": tmp_path / "runs", **more}
        return submit(cluster, run, **HOSTILE, **(exported or {}))[0]

    return submit_it


def variables_after(call: str) -> set[str]:
    """Names that are left of HOSTILE and of what reaches the cluster, and of what a job has."""
    of_job = ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_RESTART_COUNT", "SLURM_GPUS_ON_NODE")
    given = dict.fromkeys([*HOSTILE, *REACHES_THE_CLUSTER, *of_job], "x")
    bash = [shutil.which("bash") or "bash", "-euc", f'. "{remote_shell.ENVIRONMENT}"; {call}; compgen -e']
    done = subprocess.run(bash, env=given, capture_output=True, text=True, check=True)
    return set(done.stdout.split()) - {"PWD", "SHLVL", "_", "OLDPWD"}


def test_whole_families_are_unset_but_not_how_the_cluster_is_reached() -> None:
    assert variables_after("unset_slurm_options") == set(REACHES_THE_CLUSTER)
    assert variables_after("unset_slurm_options SBATCH_QOS") == {*REACHES_THE_CLUSTER, "SBATCH_QOS"}
    of_job = {"SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_RESTART_COUNT", "SLURM_GPUS_ON_NODE"}
    assert variables_after("unset_slurm_options_in_job") == {*REACHES_THE_CLUSTER, *of_job}


def test_families_are_those_of_the_variables_that_do_harm() -> None:
    """So that none of them is listed without a variable that is tried on a real Slurm below."""
    text = remote_shell.environment()
    families = {word[3:-2] for word in text.split() if word.startswith("${!") and word.rstrip(";").endswith("_@}")}
    assert {name.partition("_")[0] for name in HOSTILE} == {family.rstrip("_") for family in families}


@pytest.mark.slurm
def test_settings_win_over_the_submitting_shell(submit_stand_in: Submit, cluster: Cluster) -> None:
    run = submit_stand_in(SBATCH_ARGS="--hold", TIME="0:10:00")
    shown = cluster.shown(run.jobs[0])
    cluster.ask("scancel", run.jobs[0])
    wanted = {"Partition": "debug", "JobName": "llama31-seed7", "Requeue": "0", "TimeLimit": "00:10:00"}
    assert {name: shown[name] for name in wanted} == wanted
    assert shown["StdOut"] == str(run.run_dir / paths.slurm_log(run.jobs[0]))
    assert shown["StdErr"] in (shown["StdOut"], ""), "newer versions do not name it twice"
    assert "gpu" not in str(shown)


@pytest.mark.slurm
def test_time_limit_of_the_submitting_shell(submit_stand_in: Submit, cluster: Cluster) -> None:
    """It counts where neither TIME nor SBATCH_ARGS names one."""
    theirs = {"SBATCH_TIMELIMIT": "30"}
    for more, wanted in (({}, "00:30:00"), ({"TIME": "20"}, "00:20:00"), ({"SBATCH_ARGS": "-t 15 --hold"}, "00:15:00")):
        run = submit_stand_in(exported=theirs, **{"SBATCH_ARGS": "--hold", **more})
        assert cluster.shown(run.jobs[0])["TimeLimit"] == wanted
        cluster.ask("scancel", run.jobs[0])


@pytest.mark.slurm
def test_steps_print_where_the_job_does(submit_stand_in: Submit) -> None:
    """Also in a job submitted by hand, by an sbatch that forwards its environment."""
    run = submit_stand_in()
    assert run.ended(run.jobs[0]).exit_code == 0, run.log(run.jobs[0])
    again = run.again(env={**os.environ, **BY_HAND})
    assert run.ended(again).exit_code == 0, run.log(again)
    for job in run.jobs:
        assert stand_in.started(run.log(job)) == ["job on n1", "rank on n1", "rank on n2", "job on n1"]


@pytest.mark.slurm
def test_a_running_job_is_seen(
    submit_stand_in: Submit, cluster: Cluster, hold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By status and --wait, and by a job that would train in the same run directory."""
    hold.touch()
    run = submit_stand_in(EXCLUSIVE=0)
    (job,) = run.jobs
    cluster.until("the ranks start", lambda: "llama31.launch.slurm.rank" in run.log(job))
    second = run.again(env={**os.environ, **BY_HAND})
    assert run.ended(second).exit_code == 2
    assert f"job {job} works in it" in run.log(second)

    for name, value in {**HOSTILE, "SLURM_CONF": str(cluster.directory / "slurm.conf")}.items():
        monkeypatch.setenv(name, value)
    found = job_states.states([int(job)], "")[int(job)]
    assert (found.state, found.nodes, found.has_ended) == ("RUNNING", "n[1-2]", False)
    assert found.start.startswith("20"), "a time as Slurm writes it by default"
    hold.unlink()
    monkeypatch.undo()
    assert run.ended(job).exit_code == 0
