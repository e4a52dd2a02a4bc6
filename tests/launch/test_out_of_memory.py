"""Whose word counts for a lack of memory (out_of_memory.py): Slurm's, as recorded, and the kernel's."""

from pathlib import Path

import pytest
from checkout import TESTS

from llama31.config import paths
from llama31.launch import out_of_memory, run_directory
from llama31.run_dir import record
from llama31.run_dir.events import ABORTED, FAILED, INTERRUPTED, Outcome
from llama31.settings import Settings

RECORDED = sorted(TESTS.glob("slurm_outputs/*/out_of_memory"))
"""Logs of jobs that versions of Slurm ended, by slurm_outputs/record.sh."""


@pytest.mark.parametrize("log", RECORDED, ids=lambda path: path.parent.name)
def test_recorded_out_of_memory(log: Path, tmp_path: Path) -> None:
    assert "exceeded memory limit" in out_of_memory.slurm_report(log, since="no such line")
    assert out_of_memory.slurm_report(log, since="n2: task 1: Killed") == "", "only later lines count"
    assert out_of_memory.slurm_report(tmp_path / "none", since="no such line") == ""


@pytest.mark.parametrize(
    ("line", "is_report"),
    [
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=2.0. Some of your processes may have been", True),
        ("[2026-11-29T13:09:52.238] error: Detected 1 oom_kill event in StepId=2.0.", True),
        ("srun: error: n1: task 0: Out Of Memory", True),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", False),
        ("error: out of memory", False),
        ("srun: error: n1: task 0: Killed", False),
    ],
)
def test_which_lines_report_out_of_memory(line: str, is_report: bool, tmp_path: Path) -> None:
    """Only lines of Slurm's own programs do; ranks also print about GPU memory."""
    (tmp_path / "log").write_text(f"step 1\n{line}\n")
    assert bool(out_of_memory.slurm_report(tmp_path / "log", since="step 1\n")) == is_report


@pytest.mark.parametrize(
    ("kills", "exit_code", "is_report"), [(0, -9, False), (1, -9, True), (2, -9, True), (1, 1, False), (1, -15, False)]
)
def test_the_kernel_has_killed_a_rank(
    kills: int, exit_code: int, is_report: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts processes of the whole machine; so SIGKILL must have ended a rank, as torchrun prints it."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    log, vmstat = tmp_path / "torchrun.log", tmp_path / "vmstat"
    failure = ProcessFailure(local_rank=1, pid=4711, exitcode=exit_code, error_file="<none>")
    log.write_text(str(ChildFailedError("pretrain_llama31.py", {1: failure})))
    monkeypatch.setattr(out_of_memory, "VMSTAT", vmstat)
    vmstat.write_text("nr_free_pages 7\noom_kill 3\n")
    before = out_of_memory.kernel_kills()
    vmstat.write_text(f"nr_free_pages 7\noom_kill {3 + kills}\n")
    report = out_of_memory.kernel_report(log, before)
    assert bool(report) == is_report
    assert report.startswith(f"the kernel killed {kills} process") or not is_report


def test_this_machine_counts() -> None:
    assert "\noom_kill " in out_of_memory.VMSTAT.read_text()
    assert out_of_memory.kernel_kills() >= 0


@pytest.mark.parametrize("former", [None, Outcome(ABORTED, "rank 0 failed: connection closed", FAILED, 3, 24)])
def test_a_report_explains_a_failure(
    former: Outcome | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where another rank has recorded already what it saw."""
    (tmp_path / paths.RANK_LOGS).mkdir()
    if former:
        record.store_outcome(tmp_path, former)
    code = run_directory.end(tmp_path, Settings(), 137, "srun", log=tmp_path / "none", out_of_memory="StepId=1.0")
    outcome = record.load_outcome(tmp_path)
    assert outcome and code == outcome.exit_code == FAILED
    saw = former.reason if former else "all ranks exited without recording an outcome (srun's exit code 137)"
    assert outcome.reason == f"out of memory: StepId=1.0; {saw}"
    assert f"aborted: {outcome.reason}\n" in capsys.readouterr().out


def test_a_report_changes_no_other_outcome(tmp_path: Path) -> None:
    record.store_outcome(tmp_path, Outcome(ABORTED, "ended by SIGTERM", INTERRUPTED, 3, 24))
    log = tmp_path / "none"
    assert run_directory.end(tmp_path, Settings(), 0, "srun", log=log, out_of_memory="StepId=1.0") == INTERRUPTED
    assert record.load_outcome(tmp_path) == Outcome(ABORTED, "ended by SIGTERM", INTERRUPTED, 3, 24)


@pytest.mark.parametrize(("name", "content", "see"), [("rank-0.log", "x", "logs"), ("rank-0.log", "", "slurm-1.log")])
def test_the_log_that_is_named_is_there(name: str, content: str, see: str, tmp_path: Path) -> None:
    (tmp_path / paths.RANK_LOGS).mkdir()
    (tmp_path / paths.RANK_LOGS / name).write_text(content)
    (tmp_path / "slurm-1.log").touch()
    run_directory.end(tmp_path, Settings(), 1, "srun", log=tmp_path / "slurm-1.log")
    outcome = record.load_outcome(tmp_path)
    assert outcome and outcome.reason.endswith(f"; see {tmp_path / see}")
