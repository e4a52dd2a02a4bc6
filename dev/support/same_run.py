"""Compare a chain of jobs with an undisturbed run, for tests and for tools of dev/."""

import json
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dev.support.tensors import common, different, tensors
from llama31.checkpoint import store
from llama31.config import paths
from llama31.mlperf.check import one_log

RULESET = "6.1.0"
MEASURED = ("seconds", "memory")  # keys of metrics that differ between equal runs
STATE = ("lr_schedulers", "callbacks.RandomStates", "BenchmarkData.consumed_samples", "global_step")
"""Beginnings of the names of the other state; the rest counts what Lightning's loops did in this process."""
LOSSES = {"reduced_train_loss": "step", "val_loss": "evaluation"}  # TensorBoard's tags, and the metrics' events


def newest(root: Path) -> Path | None:
    """Return the newest complete checkpoint, None if there is none."""
    found = store.listing(root)
    return found[0].path if found else None


def differences(ours: Path, theirs: Path) -> list[str]:
    """Return what differs between two checkpoints: losses, evaluations, weights, optimizer and other state."""
    found = [f"{kind}s" for kind in LOSSES.values() if _events(ours, kind) != _events(theirs, kind)]
    return [*found, *different(tensors(ours), tensors(theirs)), *different(_state(ours), _state(theirs))]


def complaints(job_dir: Path) -> list[str]:
    """Return what the check of a log says, other than that the run ended before its target."""
    return [str(failure) for failure in one_log.check(job_dir, RULESET).failures if not failure.of_end]


def tensorboard_gaps(run_dir: Path, job_dir: Path) -> list[str]:
    """Return how TensorBoard's curves of a chain, as TensorBoard reads them, differ from the last job's metrics."""
    logged = EventAccumulator(str(run_dir / paths.TENSORBOARD), size_guidance={"scalars": 0}).Reload()
    found = []
    for tag, kind in LOSSES.items():
        steps = [event.step for event in logged.Scalars(tag)] if tag in logged.Tags()["scalars"] else []
        if steps != (wanted := [event["step"] for event in _events(job_dir, kind)]):
            missing, repeated = sorted({*wanted} - {*steps}), sorted({step for step in steps if steps.count(step) > 1})
            found.append(f"{tag}: {len(steps)} of {len(wanted)} steps; missing {missing}, repeated {repeated}")
    return found


def _events(directory: Path, kind: str) -> list[dict[str, Any]]:
    events = map(json.loads, (directory / paths.METRICS).read_text().splitlines())
    return [
        {key: value for key, value in event.items() if key not in MEASURED}
        for event in events
        if event["event"] == kind
    ]


def _state(checkpoint: Path) -> dict[str, Any]:
    return {name: value for name, value in common(checkpoint).items() if name.startswith(STATE)}
