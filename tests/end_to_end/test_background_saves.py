"""SAVE_ASYNC=1 in real runs: the same checkpoints, while training continues, and what becomes of a failed save."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import REPOSITORY, SUPPORT, TIMEOUT, Run, arguments, environment, finished, forked_command, run_forked

from dev.support.tensors import different, tensors
from llama31.checkpoint import store
from llama31.common.files import PARTIAL
from llama31.config import paths
from llama31.run_dir import record
from llama31.run_dir.events import BAD_INPUT, FAILED, INTERRUPTED, TARGET_NOT_REACHED

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(settings_of_trained: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Two ranks that save after every second step, and keep all."""
    saving = {"SAVE_CKPT": 1, "SAVE_EVERY": 2, "KEEP_LAST": 0, "SAVE_ASYNC": 1, "CONTINUAL_CKPT": tmp_path / "saved"}
    return {**settings_of_trained, **saving, "GPUS_PER_NODE": 2, "STOP_AT_STEP": 5, "JOB_DIR": tmp_path / "runs"}


@pytest.mark.parametrize(
    "layout",
    [{}, {"TENSOR_PARALLEL_SIZE": 2}, {"PIPELINE_PARALLEL_SIZE": 2}, {"PRECISION": "bf16"}],
    ids=["data parallel", "tensor parallel", "pipeline", "bf16"],
)
def test_checkpoints_equal_those_of_synchronous_saves(
    layout: dict[str, object], settings: dict[str, Any], tmp_path: Path
) -> None:
    roots = [tmp_path / "waiting", tmp_path / "in the background"]
    for in_background, root in enumerate(roots):
        run = run_forked({**settings, **layout, "CONTINUAL_CKPT": root, "SAVE_ASYNC": in_background})
        assert run.exit_code == TARGET_NOT_REACHED, run.printed + run.logs()
        assert [event["step"] for event in run.events("checkpoint")] == [2, 4, 5]
    for waited, asynchronous in zip(*map(store.listing, roots), strict=True):
        assert waited.step == asynchronous.step
        assert different(tensors(waited.path), tensors(asynchronous.path)) == []
        assert store.check_hashes(asynchronous.path, store.read_manifest(asynchronous.path)) == ""


@dataclass
class Gated:
    """A run whose checkpoints are not written before the gate opens."""

    launcher: subprocess.Popen
    run_dir: Path
    gate: Path
    root: Path

    def open(self) -> None:
        """Let writers write."""
        self.gate.touch()

    def wait_for_step(self, step: int) -> None:
        """Wait until the run has ended a step, during whose predecessors nothing could be written."""
        end = time.monotonic() + TIMEOUT
        metrics = self.run_dir / paths.METRICS
        while not (metrics.exists() and f'"event": "step", "step": {step},' in metrics.read_text()):
            assert self.launcher.poll() is None and time.monotonic() < end, self.ended().printed
            time.sleep(0.05)

    def save_processes(self) -> list[psutil.Process]:
        """The process beside each rank."""
        ranks = psutil.Process(record.load_saver(self.run_dir)).parent().children()
        return [child for rank in ranks for child in rank.children()]

    def ended(self) -> Run:
        """The run, at its end."""
        printed, _ = self.launcher.communicate(timeout=TIMEOUT)
        return finished(printed, self.launcher.returncode)

    def partial(self) -> list[int]:
        """The steps of incomplete checkpoints."""
        return [checkpoint.step for checkpoint in store.listing(self.root, suffix=PARTIAL)]


@pytest.fixture
def start(settings: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., Gated]]:
    started = []

    def start(**more: Any) -> Gated:
        launcher = subprocess.Popen(
            forked_command(SUPPORT / "gated_writers.py", *arguments({**settings, **more})),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment(), "PYTHONPATH": str(REPOSITORY), "GATE": str(tmp_path / "gate")},
        )
        started.append(launcher)
        return Gated(launcher, tmp_path / "runs" / "latest", tmp_path / "gate", tmp_path / "saved")

    yield start
    (tmp_path / "gate").touch()
    for launcher in started:
        if launcher.poll() is None:
            launcher.terminate()
            launcher.communicate(timeout=TIMEOUT)


def test_steps_continue_and_the_next_save_waits(start: Callable[..., Gated]) -> None:
    run = start()
    run.wait_for_step(4)
    assert store.listing(run.root) == [] and run.partial() == [2], "named before it was written"
    run.open()
    done = run.ended()
    assert done.exit_code == TARGET_NOT_REACHED, done.printed + done.logs()
    assert [checkpoint.step for checkpoint in store.listing(run.root)] == [5, 4, 2]
    assert run.partial() == []
    first, second, last = done.events("checkpoint")
    assert [first["step"], second["step"], last["step"]] == [2, 4, 5]
    assert first["blocked"] < first["seconds"]


def test_a_warning_of_the_time_limit_waits_for_the_save(start: Callable[..., Gated]) -> None:
    run = start(STOP_AT_STEP=100)
    run.wait_for_step(3)
    run.launcher.send_signal(signal.SIGUSR1)
    run.open()
    done = run.ended()
    assert done.exit_code == INTERRUPTED, done.printed + done.logs()
    newest, *_, first = store.listing(run.root)
    assert (first.step, newest.step) == (2, done.outcome.step)
    assert store.check_hashes(newest.path, store.read_manifest(newest.path)) == ""
    assert run.partial() == []


def test_a_run_that_fails_cancels_the_save(start: Callable[..., Gated]) -> None:
    """The learning rate destroys the weights in the first steps."""
    run = start(MAX_LR=1e30, WARMUP_STEPS=1)
    done = run.ended()
    assert done.exit_code == TARGET_NOT_REACHED, done.printed + done.logs()
    assert done.outcome.reason == "the training loss is nan at step 3; a lower MAX_LR may help"
    assert_not_saved(run)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_save_process_ends_the_run(rank: int, start: Callable[..., Gated]) -> None:
    run = start(STOP_AT_STEP=1000)
    run.wait_for_step(3)
    run.save_processes()[rank].kill()
    done = run.ended()
    assert done.exit_code == FAILED, done.printed + done.logs()
    assert "par-1-2-steps: the process that writes the checkpoint ended: SIGKILL" in done.outcome.reason
    assert_not_saved(run)


def test_a_killed_rank_takes_its_save_process_along(start: Callable[..., Gated]) -> None:
    run = start(STOP_AT_STEP=1000)
    run.wait_for_step(3)
    run.save_processes()[1].parent().kill()
    done = run.ended()
    assert done.exit_code == FAILED, done.printed + done.logs()
    assert_not_saved(run)


def assert_not_saved(run: Gated) -> None:
    """The save after step 2 left an incomplete checkpoint, and no process."""
    assert store.listing(run.root) == [] and run.partial() == [2]
    logs = str((run.run_dir / paths.RANK_LOGS).resolve())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            assert not any(file.path.startswith(logs) for file in process.open_files()), process


def test_disk_that_fills_up(settings: dict[str, Any], small_disk: Path) -> None:
    """The disk can hold one checkpoint, not two: the first stays valid, and a line reports the failed save."""
    run = run_forked({**settings, "CONTINUAL_CKPT": small_disk, "STOP_AT_STEP": 9})
    assert run.exit_code == BAD_INPUT, run.printed + run.logs()
    assert "par-1-4-steps: cannot be saved: No space left on device" in run.outcome.reason
    assert [checkpoint.step for checkpoint in store.listing(small_disk)] == [2]
    assert [checkpoint.step for checkpoint in store.listing(small_disk, suffix=PARTIAL)] == [4]
