"""`python3 -m llama31 status`: runs of this machine that train, have ended or are damaged. 20 s, most to train."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import DEADLINE
from light_imports import imported_by, is_light
from runs import REPOSITORY, Run, run_llama31
from status_rows import printed, row, write_run

from dev.support import benchmark_run
from llama31 import rules
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.launch.slurm.job_states import JobState
from llama31.run_dir import record, summary
from llama31.run_dir.events import ABORTED, BAD_INPUT, FAILED, INTERRUPTED, SUCCESS, TARGET_NOT_REACHED, Outcome, Step
from llama31.status import run_state, status
from llama31.status.run_state import ChainJob

STEPS, EVERY = 30, 12  # optimizer steps, and those between evaluations, of the run that trains


@pytest.fixture(scope="module")
def trained(tiny_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One real run that ends without reaching its target."""
    settings = {"SIZE": "tiny", "DEVICE": "cpu", "SEQ_LENGTH": 32, "GBS": 8, "EVAL_SAMPLES": 16, "SEEDS": 1}
    cadence = {"EVAL_EVERY": EVERY * 8, "STOP_AT_STEP": STEPS}
    return run_llama31({**tiny_data, **settings, **cadence, "JOB_DIR": tmp_path_factory.mktemp("trained")})


def copy(run: Run, run_dir: Path, *, size: int) -> Path:
    """Copy the run's directory as it was when its metrics had `size` bytes."""
    shutil.copytree(run.run_dir, run_dir)
    (run_dir / paths.OUTCOME).unlink()
    with (run_dir / paths.METRICS).open("r+b") as file:
        file.truncate(size)
    return run_dir


def seconds(text: str) -> float:
    """h:mm:ss as seconds."""
    hours, minutes, rest = map(int, text.split(":"))
    return hours * 3600 + minutes * 60 + rest


# --- Runs of this machine ---


@pytest.mark.slow
def test_run_that_has_ended(trained: Run) -> None:
    words, figures = row(trained.run_dir)
    assert words == f"target not reached: {trained.outcome.reason}", trained.printed + trained.logs()
    steps, evaluations = trained.events("step"), trained.events("evaluation")
    rate = 20 * 8 * 32 / sum(step["seconds"] for step in steps[-20:])
    losses = [f"{steps[-1]['loss']:.4f}", f"{evaluations[-1]['loss']:.4f}"]
    assert figures == [f"{STEPS}/{STEPS}", f"{STEPS * 8}", *losses, f"{rate:,.0f}", ""]


@pytest.mark.slow
def test_running_run_at_any_moment(trained: Run, tmp_path: Path) -> None:
    """The metrics may end anywhere, also in the middle of a line."""
    whole = (trained.run_dir / paths.METRICS).read_bytes()
    ends = [number + 1 for number, byte in enumerate(whole) if byte == ord("\n")]
    for number, size in enumerate((0, 20, ends[0], ends[0] + 30, ends[3] - 1, ends[EVERY], ends[EVERY + 1], ends[-2])):
        run_dir = copy(trained, tmp_path / f"run {number}", size=size)
        events = [json.loads(line) for line in whole[:size].splitlines(keepends=True) if line.endswith(b"\n")]
        steps = [event for event in events if event["event"] == "step"]
        evaluations = [event for event in events if event["event"] == "evaluation"]
        with record.claim(run_dir):
            words, figures = row(run_dir)
        if not steps:
            assert (words, figures) == ("starting", [])
            continue
        assert words.startswith("running, last step 0:00:"), words
        done = steps[-1]["step"]
        validation = f"{evaluations[-1]['loss']:.4f}" if evaluations else "-"
        assert figures[:4] == [f"{done}/{STEPS}", f"{done * 8}", f"{steps[-1]['loss']:.4f}", validation]
        mean = sum(step["seconds"] for step in steps[-20:]) / len(steps[-20:])
        of_evaluations = evaluations[-1]["seconds"] if evaluations else 0
        still = sum(mean + (of_evaluations if step % EVERY == 0 else 0) for step in range(done + 1, STEPS + 1))
        left, _, what = figures[5].partition(" to ")
        assert (what, seconds(left)) == ("end", pytest.approx(still, abs=1)) if done < STEPS else figures[5] == ""


def test_time_left_to_the_reference(tmp_path: Path) -> None:
    """It comes before the end of the data; the evaluations on the way there are counted."""
    run_dir = write_run(tmp_path / "run", evaluations=2)
    with record.claim(run_dir):
        _, figures = row(run_dir)
    steps = -(-rules.REFERENCE_POINTS[32].mean // 32)
    assert figures[0] == f"{2 * 384}/{rules.samples_available(32) // 32:,}", "benchmark_run's log names more data"
    left, _, what = figures[5].partition(" to ")
    assert what == "reference"
    assert seconds(left) == (steps - 2 * 384) * benchmark_run.STEP_SECONDS + (steps // 384 - 2) * 10.0


def test_figures_of_a_run_whose_last_line_a_full_disk_cut(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", evaluations=2)
    outcome = Outcome(ABORTED, "no space", BAD_INPUT, 768, 768 * 32)
    before = list(summary.lines(run_dir, benchmark_run.SETTINGS, outcome))
    with (run_dir / paths.METRICS).open("a") as metrics:
        metrics.write('{"event": "step", "st')
    assert list(summary.lines(run_dir, benchmark_run.SETTINGS, outcome)) == before


def test_the_table_that_the_documentation_shows(tmp_path: Path) -> None:
    name = "8b-gbs32-seed1-20261123-145500"
    with record.claim(write_run(tmp_path / name, evaluations=2)):
        header, words, figures = printed(tmp_path)
    states_of_jobs = (JobState("TIMEOUT"), JobState("RUNNING", nodes="n[1-4]"), JobState("PENDING"))
    jobs = run_state.job_text([ChainJob(12 + number, state) for number, state in enumerate(states_of_jobs)])
    shown = words.replace(name, f"{name}  {jobs}").partition("0:00:0")[0]
    text = (REPOSITORY / "docs" / "running.md").read_text()
    for line in (header, shown, figures):
        assert f"\n{line}" in text, "docs/running.md, Watch: show what is printed"


def test_other_models_have_no_reference(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", 2, replace(benchmark_run.SETTINGS, size="demo"))
    with record.claim(run_dir):
        assert row(run_dir)[1][5].endswith(" to end")


def test_time_since_the_last_step_shows_a_hang(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", 1)
    long_ago = time.time() - 2 * 3600
    os.utime(run_dir / paths.METRICS, (long_ago, long_ago))
    with record.claim(run_dir):
        assert row(run_dir)[0].startswith("running, last step 2:00:0")


CLAIMS = """
import subprocess, sys, time
from pathlib import Path
from llama31.run_dir import record
with record.claim(Path(sys.argv[1])) as held:
    child = subprocess.Popen(["sleep", "600"], pass_fds=(held.fileno(),))
    print(child.pid, flush=True)
    time.sleep(600)
"""


def test_run_whose_launcher_was_killed(tmp_path: Path) -> None:
    """The run is running as long as torchrun, which inherits the claim; after that, it was killed."""
    run_dir = write_run(tmp_path / "run", 1)
    command = [sys.executable, "-c", CLAIMS, run_dir]
    launcher = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    torchrun = int(launcher.stdout.readline())
    try:
        launcher.kill()
        launcher.wait()
        assert row(run_dir)[0].startswith("running")
    finally:
        os.kill(torchrun, signal.SIGKILL)
    end = time.monotonic() + DEADLINE
    while (words := row(run_dir)[0]) != "killed":  # the process ends in its own time
        assert time.monotonic() < end, words


def test_run_that_cannot_be_distinguished_from_a_killed_one(tmp_path: Path) -> None:
    """It was started by a version that claims nothing, or on a machine whose locks are not visible here."""
    run_dir = write_run(tmp_path / "run", 1)
    assert row(run_dir)[0].startswith("no outcome yet")
    (run_dir / record.CLAIM).write_text("another-machine")
    assert row(run_dir)[0].startswith("no outcome yet")


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(SUCCESS, "validation loss 3.2 reached", 0, 384, 12_288), "target reached"),
        (Outcome(ABORTED, "received SIGTERM", INTERRUPTED, 384, 12_288), "interrupted: received SIGTERM"),
        (Outcome(ABORTED, "rank 1 failed", FAILED, 384, 12_288), "failed: rank 1 failed"),
        (Outcome(ABORTED, "the loss is nan", TARGET_NOT_REACHED, 384, 12_288), "target not reached: the loss is nan"),
    ],
)
def test_outcomes(outcome: Outcome, words: str, tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", 1)
    record.store_outcome(run_dir, outcome)
    assert row(run_dir)[0] == words


# --- What is damaged, and what is no run ---


def step(seconds: float) -> str:
    return json.dumps({"event": "step", **vars(Step(1, 32, 4.0, 1e-4, seconds))}) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (paths.SETTINGS, "[" * 10_000),
        (paths.SETTINGS, "gbs: [8"),
        (paths.SETTINGS, "- 8"),
        (paths.SETTINGS, "\0\0"),
        (paths.SETTINGS, "no_such_setting: 8"),
        (paths.OUTCOME, '{"status": "success"'),
        (paths.OUTCOME, "{}"),
        (paths.START, "[]"),
        (paths.START, "{}"),
        (paths.METRICS, "\0\0\0\n"),
        (paths.METRICS, '{"event": "step", "step": "one"}\n'),
        (paths.METRICS, "[1]\n"),
        (paths.METRICS, step(0.0)),
        (paths.METRICS, step(float("inf"))),
        (paths.METRICS, step(1.0).replace("32", str(10**30))),
        (paths.METRICS, "[" * 10_000 + "\n"),
        (paths.MLPERF_LOG, ':::MLLOG {"key": "train_samples", "value": \n'),
        (paths.SUBMISSION, "{"),
    ],
)
def test_damaged_file_is_a_row_that_names_it(name: str, content: str, tmp_path: Path) -> None:
    whole, damaged = write_run(tmp_path / "whole", 1), write_run(tmp_path / "damaged", 1)
    (damaged / name).write_text(content)
    lines = printed(tmp_path)
    (line,) = [line for line in lines if line.startswith("damaged")]
    assert line.startswith(f"damaged  damaged: {damaged / name}: "), line
    assert any(line.startswith(whole.name) for line in lines), "the other run is shown all the same"


def test_half_made_directory_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "half-made" / paths.RANK_LOGS).mkdir(parents=True)
    assert printed(tmp_path)[1:] == [
        f"half-made  damaged: {tmp_path / 'half-made'}: no run directory, it has no {paths.SETTINGS}"
    ]


def test_newest_is_last_and_each_run_is_there_once(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "c", "a")):
        run_dir = write_run(tmp_path / name, 1)
        os.utime(run_dir / paths.SETTINGS, (number, number))
    (tmp_path / "latest").symlink_to("a")
    (tmp_path / "index").mkdir()
    (tmp_path / "notes.txt").touch()
    rows, notes = status.collect([tmp_path, tmp_path / "latest", tmp_path / "c"])
    assert [one.text.split()[0] for one in rows] == ["b", "c", "a"]
    assert notes == []
    assert row((tmp_path / "latest").resolve()) == row(tmp_path / "a")


def test_directory_without_runs(tmp_path: Path) -> None:
    assert printed(tmp_path) == ["no runs yet"]
    with pytest.raises(UserError, match="JOB_DIR"):
        status.collect([tmp_path / "nowhere"])


def test_metrics_that_are_large_are_read_from_their_end(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", 1)
    file = run_dir / paths.METRICS
    end = file.read_bytes()
    with file.open("wb") as large:
        large.seek(20 << 30)  # a hole, which takes no space
        large.write(b"\n" + end)
    record.claim(run_dir).close()
    before = bytes_read()
    assert row(run_dir)[1][0].startswith("384/")
    assert bytes_read() - before < 10e6


def bytes_read() -> int:
    """Bytes that this process has read so far, cached or not (proc(5))."""
    return int(Path("/proc/self/io").read_text().split()[1])


# --- The verb ---


@pytest.mark.slow
def test_fifty_runs_and_nothing_heavy(trained: Run, tmp_path: Path) -> None:
    for number in range(50):
        shutil.copytree(trained.run_dir, tmp_path / "runs" / f"run-{number}")
    modules, returncode, _ = imported_by("status", str(tmp_path / "runs"))
    assert returncode == 0 and is_light(modules)
    assert sum("target not reached" in line for line in printed(tmp_path / "runs")) == 50


def test_the_exit_code_says_whether_all_runs_could_be_read(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"run-{number}", 1) for number in (1, 2)]
    assert status.status([tmp_path], io.StringIO()) == 0
    (runs[0] / paths.SETTINGS).write_text("[")
    assert status.status([tmp_path], out := io.StringIO()) == 1
    assert f"run-1  damaged: {runs[0] / paths.SETTINGS}: damaged" in out.getvalue()


@pytest.mark.slow
def test_lines_fit_a_terminal(trained: Run) -> None:
    """At 80 columns, where no name or path is longer."""
    command = f"stty cols 80; exec {sys.executable} -m llama31 status '{trained.run_dir.parent}'"
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", command, "/dev/null"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0].split() == " ".join(status.HEADER).split()
    assert max(map(len, lines)) <= 80, lines
    assert len(lines) > len(printed(trained.run_dir.parent)), "nothing had to be wrapped, so nothing was tested"
