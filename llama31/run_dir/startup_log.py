"""How far a rank has come in its start, told in its log: what took how long, and where one that hangs is."""

from datetime import datetime, timezone

RANK = "the rank runs"
CHECKED = "data and packages are checked"
IMPORTED = "NeMo and Megatron-Core are imported"
JOINED = "the ranks have joined"
INDEXED = "the training index is there"
READY = "model and optimizer are ready"
BATCH = "the first batch is there"
STEPPED = "the first step is done"
PARTS = (RANK, CHECKED, IMPORTED, JOINED, INDEXED, READY, BATCH, STEPPED)
"""In their order."""
MARK = " start: "
"""Between the time, in ISO 8601, and the part."""


def reached(part: str) -> None:
    """Prints that a part of the start is over."""
    print(f"{datetime.now(timezone.utc).isoformat(timespec='milliseconds')}{MARK}{part}", flush=True)
