"""Targets that train: run, save, resume."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dev.faults import inputs
from dev.faults.attempt import RANKS
from dev.faults.target import Files, Target
from dev.support import forked_ranks
from dev.support.runs import REPOSITORY, arguments, environment
from llama31.checkpoint import store
from llama31.config import paths
from llama31.run_dir.events import TARGET_NOT_REACHED

CHECKPOINTS = "checkpoints"
STEPS = 4
IMPORTED = (
    "fiddle", "llama31.mlperf.log.writer", "llama31.model.cpu_backend", "llama31.model.device",
    "llama31.model.vocabulary", "llama31.recipe", "llama31.training.benchmark_callback",
    "llama31.training.checkpoint_saver", "llama31.training.diagnosis", "llama31.training.lowest_precision",
    "llama31.training.progress_callback", "llama31.training.rank_times",
)  # fmt: skip
"""What a rank imports."""
LOGGED = ("eval_accuracy", "run_stop", "seed", "global_batch_size", "train_loss")
"""Keys of the MLPerf log that are compared."""


def _settings(work: Path, **more: object) -> list[str]:
    found = {**inputs.run_settings(work), "MAX_STEPS": STEPS, **more}
    return arguments(found)


def _command(work: Path, **more: object) -> Sequence[str]:
    """Return llama31 run with forked ranks, as python -m llama31 run starts it."""
    socket = work.parent / RANKS / forked_ranks.SOCKET
    script = REPOSITORY / "pretrain_llama31.py"
    return [sys.executable, forked_ranks.__file__, "run", str(socket), str(script), *_settings(work, **more)]


def _saving(work: Path) -> dict[str, object]:
    return {"SAVE_CKPT": 1, "CONTINUAL_CKPT": work / CHECKPOINTS, "SAVE_EVERY": 2, "KEEP_LAST": 3}


def _cut_run(directory: Path) -> None:
    """Train the first steps, and keep only their checkpoint."""
    inputs.token_files(directory)
    settings = _settings(directory, **_saving(directory), STOP_AT_STEP=2)
    command = ["bash", str(REPOSITORY / "run_llama31.sh"), *settings]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != TARGET_NOT_REACHED:
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    shutil.rmtree(directory / "runs")  # the newest run is to be that of a try


def results_of(work: Path) -> Files:
    """Return what the newest run computed and wrote, if it ended as it should; and the complete checkpoints."""
    found = {f"checkpoint {one.step}": _weights(one.path) for one in store.listing(work / CHECKPOINTS)}
    run_dirs = sorted((work / "runs").glob("*/" + paths.OUTCOME), key=lambda file: file.stat().st_mtime_ns)
    if not run_dirs:
        return found
    run_dir = run_dirs[-1].parent
    try:
        outcome = json.loads((run_dir / paths.OUTCOME).read_text())
    except ValueError:  # which `half_written` reports
        return found
    if outcome["exit_code"] != TARGET_NOT_REACHED:
        return found
    events = [json.loads(line) for line in (run_dir / paths.METRICS).read_text().splitlines()]
    # A checkpoint holds the metrics before the event of its own saving.
    recorded = [
        [event["event"], event["step"], event.get("loss")] for event in events if event["event"] != "checkpoint"
    ]
    return {
        **found,
        "outcome": f"{outcome['status']}, step {outcome['step']}, {outcome['consumed_samples']} samples",
        "metrics": str(recorded),
        "MLPerf log": str(_logged(run_dir / paths.MLPERF_LOG)),
        "TensorBoard": _drawn(run_dir, events),
    }


def _weights(checkpoint: Path) -> str:
    """Return a hash of a checkpoint's weights, as its manifest has them."""
    manifest = json.loads((checkpoint / store.MANIFEST).read_text())
    shards = sorted((name, value) for name, value in manifest["files"].items() if name.endswith(".distcp"))
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()


def _logged(log: Path) -> list[list[Any]]:
    """Return key, step or samples, and value of the lines that a run's result is read from."""
    lines = [json.loads(line.partition(":::MLLOG ")[2]) for line in log.read_text().splitlines() if ":::MLLOG" in line]
    said = [line for line in lines if line["key"] in LOGGED]
    return [[line["key"], line["metadata"].get("samples_count"), line["value"]] for line in said]


def _drawn(run_dir: Path, events: list[dict[str, Any]]) -> str:
    """Return whether TensorBoard's files have the losses of the steps of this job."""
    first = json.loads((run_dir / paths.START).read_text())["step"]
    files = EventAccumulator(str(run_dir / paths.TENSORBOARD))
    files.Reload()
    wrong = []
    for tag, kind in (("reduced_train_loss", "step"), ("val_loss", "evaluation")):
        points = [(point.step, point.value) for point in files.Scalars(tag)]
        losses = [
            (event["step"], event["loss"]) for event in events if event["event"] == kind and event["step"] > first
        ]
        wrong += [] if points == losses else [f"{tag} has {points}, not {losses}"]
    return "; ".join(wrong) or "as the metrics"


def half_written(work: Path) -> list[str]:
    """Return damaged JSON files of run directories, and checkpoints that are not as their manifests say."""
    found = []
    for file in (work / "runs").glob("*/*.json"):
        try:
            json.loads(file.read_text())
        except ValueError:
            found.append(f"{file.relative_to(work)}: half-written")
    for one in store.listing(work / CHECKPOINTS):
        manifest = json.loads((one.path / store.MANIFEST).read_text())
        for name, (size, sha256) in manifest["files"].items():
            file = one.path / name
            content = file.read_bytes() if file.exists() else b""
            if (len(content), hashlib.sha256(content).hexdigest()) != (size, sha256):
                found.append(f"{file.relative_to(work)}: not as the manifest says")
    return found


def _target(name: str, prepare: Any, **more: Any) -> Target:
    return Target(
        name, prepare, code=TARGET_NOT_REACHED, message_is_last=False, view=results_of, half_written=half_written,
        may_remain=r"\.partial|\.damaged|\.lock$", timeout=120, ranks_import=IMPORTED, **more,
    )  # fmt: skip


TRAINING = [
    _target("run", inputs.token_files, command=_command),
    _target("save", inputs.token_files, command=lambda work: _command(work, **_saving(work))),
    _target("resume", _cut_run, command=lambda work: _command(work, **_saving(work))),
]
