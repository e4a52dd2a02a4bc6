"""Saves on request, killed saves, and starts from weights only, in real runs."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import oracle
import pytest
import tiny
import torch
from runs import REPOSITORY, TIMEOUT, Run, arguments, environment, prepared_run, run_forked, stopped_by
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dev.support.tensors import common, different, tensors
from llama31.checkpoint import store
from llama31.checkpoint.formats import nemo
from llama31.common.files import PARTIAL
from llama31.config import paths
from llama31.data import tokenizer
from llama31.run_dir.events import BAD_INPUT, FAILED, INTERRUPTED, TARGET_NOT_REACHED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(settings_of_trained: dict[str, Any]) -> dict[str, Any]:
    return settings_of_trained


def test_a_warning_saves_within_a_step(settings: dict[str, Any], tmp_path: Path) -> None:
    steps_at_signal = []

    def warn(launcher: subprocess.Popen, _: list[int]) -> None:
        metrics = (Path(settings["JOB_DIR"]) / "latest" / paths.METRICS).read_text()
        steps_at_signal.append(metrics.count('"event": "step"'))
        launcher.send_signal(signal.SIGUSR1)

    run = stopped_by(warn, {**settings, "GPUS_PER_NODE": 2, "SAVE_CKPT": 1, "CONTINUAL_CKPT": tmp_path})
    assert steps_at_signal[0] <= run.outcome.step <= steps_at_signal[0] + 2, "one may end before the signal arrives"
    assert_saved_and_ended(run, tmp_path)


@pytest.mark.parametrize("in_background", [0, 1])
def test_slurms_warning_to_all_processes_of_a_rank(
    in_background: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    """A rank that srun starts, with SIGTERM to what it started too, such as Megatron's writers of checkpoints."""
    saving = {**settings, "SAVE_CKPT": 1, "SAVE_ASYNC": in_background, "CONTINUAL_CKPT": tmp_path, "SAVE_EVERY": 1}
    run_dir, _, of_ranks = prepared_run(saving)
    single = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    rank = subprocess.Popen(
        [sys.executable, REPOSITORY / "pretrain_llama31.py", run_dir],
        stdout=subprocess.PIPE,
        text=True,
        env={**of_ranks, **single, **meeting},
        start_new_session=True,
    )
    try:
        printed = ""
        for line in rank.stdout:
            printed += line
            if line.startswith("saved after step 1:"):
                break
        os.killpg(rank.pid, signal.SIGTERM)
        rest, _ = rank.communicate(timeout=TIMEOUT)
    finally:
        rank.kill()
    run = Run(run_dir, printed + rest, INTERRUPTED)
    assert rank.returncode == 0, run.printed + run.logs()
    assert_saved_and_ended(run, tmp_path)


def free_port() -> int:
    """Return a port that is not in use."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def assert_saved_and_ended(run: Run, root: Path) -> None:
    """The job saved a checkpoint after its last step, and closed its records."""
    assert run.exit_code == INTERRUPTED, run.printed + run.logs()
    step = run.outcome.step
    assert run.outcome.reason == f"asked to end at step {step}; the checkpoint of this step is saved"
    newest = store.listing(root)[0]
    assert (newest.job, newest.step) == (1, step)
    assert store.check_hashes(newest.path, store.read_manifest(newest.path)) == ""
    assert [event["step"] for event in run.events("step")] == list(range(1, step + 1))
    assert [event["step"] for event in run.events("evaluation")] == list(range(4, step + 1, 4))
    assert oracle.mlperf_events(run.run_dir / paths.MLPERF_LOG)[-1]["metadata"]["status"] == "aborted"


@pytest.mark.parametrize("in_background", [0, 1])
def test_killed_at_random_moments(in_background: int, settings: dict[str, Any], tmp_path: Path) -> None:
    """Run dev/kill_saves.py with two kills instead of 30, and an uninterrupted run as its reference."""
    reference = run_forked({**settings, "SAVE_CKPT": 1, "CONTINUAL_CKPT": tmp_path / "reference", "STOP_AT_STEP": 16})
    assert reference.exit_code == TARGET_NOT_REACHED, reference.printed + reference.logs()
    these = {name: value for name, value in settings.items() if name not in ("JOB_DIR", "SEEDS")}
    these["SAVE_ASYNC"] = in_background
    # Saves in the background let the steps of the run end sooner.
    options = ["--kills", "2", *(["--seconds", "1"] if in_background else [])]
    command = [sys.executable, "-m", "dev.kill_saves", tmp_path, *options, *arguments(these)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT, env=environment(), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith(
        "2 kills: weights and optimizer state after step 16 equal the reference's"
    )


# Weights only


def test_saves_by_the_clock(trained: tuple[Run, Path]) -> None:
    run, newest = trained
    assert [event["step"] for event in run.events("checkpoint")] == list(range(1, 9))
    assert [checkpoint.step for checkpoint in store.listing(newest.parent)] == [8, 7, 6]


def test_weights_only(trained: tuple[Run, Path], settings: dict[str, Any], tmp_path: Path) -> None:
    """Without our manifest it is an ordinary NeMo checkpoint; with almost no learning rate, its loss stays the same."""
    source, checkpoint = trained
    path = checkpoints.copy(checkpoint, tmp_path)
    (path / store.MANIFEST).unlink()
    from_it = {"FROM_HF": 1, "MODEL_CKPT": path, "START_STEPS": 8, "MAX_LR": 1e-12, "STOP_AT_STEP": 4}
    run = run_forked({**settings, **from_it, "GPUS_PER_NODE": 2, "TENSOR_PARALLEL_SIZE": 2})
    assert run.exit_code == TARGET_NOT_REACHED, run.printed + run.logs()
    (evaluation,) = run.events("evaluation")
    assert evaluation["loss"] == pytest.approx(source.events("evaluation")[-1]["loss"], abs=1e-4)
    assert evaluation["loss"] != pytest.approx(source.events("evaluation")[0]["loss"], abs=1e-3)
    assert [event["step"] for event in run.events("step")] == [1, 2, 3, 4]
    assert run.printed.count("not a benchmark result") == 1
    log = {event["key"]: event for event in oracle.mlperf_events(run.run_dir / paths.MLPERF_LOG)}
    assert log["init_checkpoint_step"]["value"] == 8
    assert log["submission_division"]["value"] == "open"
    assert any("FROM_HF=1" in line for line in log["submission_division"]["metadata"]["departures"])


def test_context_holds_the_tokenizer_and_nothing_beside_it(
    trained: tuple[Run, Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    """NeMo finds its tokenizer in the checkpoint, wherever that is moved to."""
    checkpoint = checkpoints.copy(trained[1], tmp_path)
    found = nemo.inspect(checkpoint)
    assert found.tokenizer == checkpoint / nemo.CONTEXT / nemo.TOKENIZER
    names = {file.name for file in found.tokenizer.iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json"}
    assert tokenizer.fingerprint(found.tokenizer) == tokenizer.fingerprint(settings["TOKENIZER_PATH"])
    assert not list(checkpoint.rglob(tiny.WEIGHTS_BESIDE))
    assert {path.name for path in checkpoint.iterdir() if path.is_dir()} == {nemo.CONTEXT, nemo.WEIGHTS}
    assert not list(trained[1].parent.rglob(f"*{PARTIAL}"))


# A run that changes


def test_another_batch_size_from_here_on(trained: tuple[Run, Path], settings: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = checkpoints.copy(trained[1], tmp_path)
    changed = {**settings, "GBS": 8, "MODEL_CKPT": checkpoint, "USE_CKPT": 1, "STOP_AT_STEP": 11}
    run = run_forked(changed, "--allow-change", "GBS")
    assert run.exit_code == TARGET_NOT_REACHED, run.printed + run.logs()
    assert [event["consumed_samples"] for event in run.events("step")] == [*range(4, 33, 4), 40, 48, 56]
    assert run.losses()[:8] == trained[0].losses()
    assert [event["step"] for event in run.events("evaluation")] == [4, 8, 10], "every 4 steps of 4, every 2 of 8"
    log = {event["key"]: event for event in oracle.mlperf_events(run.run_dir / paths.MLPERF_LOG)}
    departures = log["submission_division"]["metadata"]["departures"]
    assert "GBS=8: the run has GBS=4; changed by --allow-change GBS after step 8" in departures


def test_a_run_whose_norms_decay_resumes_exactly(settings: dict[str, Any], tmp_path: Path) -> None:
    """All parameters are in one group of the optimizer then, also where ranks share each layer.

    The first checkpoint holds a note: pruning leaves it.
    """
    these = {**settings, "DECAY_NORMS": 1, "GPUS_PER_NODE": 2, "TENSOR_PARALLEL_SIZE": 2, "SAVE_CKPT": 1}
    at_once, resumed = tmp_path / "at once", tmp_path / "resumed"
    run = run_forked({**these, "CONTINUAL_CKPT": at_once, "SAVE_EVERY": 1, "KEEP_LAST": 0, "STOP_AT_STEP": 3})
    assert run.exit_code == TARGET_NOT_REACHED, run.printed + run.logs()
    last, _, first = [checkpoint.path for checkpoint in store.listing(at_once)]
    first = checkpoints.copy(first, resumed)
    (first / "notes.txt").write_text("the first one")
    run = run_forked({**these, "CONTINUAL_CKPT": resumed, "SAVE_EVERY": 1, "KEEP_LAST": 1, "STOP_AT_STEP": 3})
    assert run.exit_code == TARGET_NOT_REACHED, run.printed + run.logs()
    ours, theirs = (tensors(path) for path in (store.listing(resumed)[0].path, last))
    assert different(ours, theirs) == []
    assert [checkpoint.step for checkpoint in store.listing(resumed)] == [3, 1]
    assert run.printed.count(f"\n{first}: not removed, it holds a file that no save wrote (notes.txt)") == 2
    groups = {name: value for name, value in common(last).items() if name.endswith(".weight_decay")}
    assert list(groups.values()) == [0.1], groups


# Checkpoints that others made


class Mischief:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.file),)


def test_nothing_in_a_checkpoint_is_executed(
    trained: tuple[Run, Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    """What torch.load reads; for the table of contents see test_safe_unpickle.py."""
    path = checkpoints.copy(trained[1], tmp_path)
    torch.save(Mischief(tmp_path / "executed"), path / nemo.WEIGHTS / "common.pt")
    run = run_forked({**settings, "FROM_HF": 1, "MODEL_CKPT": path, "STOP_AT_STEP": 1})
    assert not (tmp_path / "executed").exists()
    assert run.exit_code == FAILED, run.printed + run.logs()
    assert "Weights only load failed" in run.outcome.reason


# Full disk


def test_disk_that_fills_up_while_saving(settings: dict[str, Any], small_disk: Path) -> None:
    """The disk can hold one checkpoint, not two: the first stays valid, and a line reports the failed save."""
    run = run_forked({**settings, "SAVE_CKPT": 1, "CONTINUAL_CKPT": small_disk, "SAVE_EVERY": 2, "STOP_AT_STEP": 9})
    assert run.exit_code == BAD_INPUT, run.printed + run.logs()
    assert "par-1-4-steps: cannot be saved: No space left on device" in run.outcome.reason
    assert [checkpoint.step for checkpoint in store.listing(small_disk)] == [2]
    assert [checkpoint.step for checkpoint in store.listing(small_disk, suffix=PARTIAL)] == [4]
    logged = EventAccumulator(str(run.run_dir / paths.TENSORBOARD)).Reload()
    assert [event.step for event in logged.Scalars("reduced_train_loss")] == [1, 2, 3, 4], "logged before it is saved"
