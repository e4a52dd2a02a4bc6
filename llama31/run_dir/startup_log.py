"""Timestamps in each rank's log for the stages of its start: how long each takes, and where one hangs."""

from datetime import datetime, timezone

RANK = "the rank runs"
CHECKED = "data and packages are checked"
IMPORTED = "NeMo and Megatron-Core are imported"
JOINED = "the ranks have joined"
INDEXED = "the training index is there"
WARMED = "the warm-up is done"  # only with WARMUP_TRAIN_STEPS or WARMUP_VALIDATION_STEPS, so not in PARTS
READY = "model and optimizer are ready"
BATCH = "the first batch is there"
STEPPED = "the first step is done"
PARTS = (RANK, CHECKED, IMPORTED, JOINED, INDEXED, READY, BATCH, STEPPED)
"""Stages in order."""
MARK = " start: "
"""Separates the time, in ISO 8601, from the stage."""


def reached(part: str) -> None:
    """Print that a stage of the start is done."""
    print(f"{datetime.now(timezone.utc).isoformat(timespec='milliseconds')}{MARK}{part}", flush=True)
