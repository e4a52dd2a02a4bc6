"""A run's metrics as JSON lines, one for each step and evaluation."""

import json
from dataclasses import asdict
from pathlib import Path

from llama31.events import Evaluation, Observer, Outcome, Step


class MetricsWriter(Observer):
    """Appends events to a file, each as one line: {"event": "step" | "evaluation" | "outcome", ...its fields}."""

    def __init__(self, path: Path):
        self._file = path.open("a", buffering=1, encoding="utf-8")  # a line is whole on disk, or not there

    def step_ended(self, step: Step) -> None:
        self._write("step", step)

    def evaluation_ended(self, evaluation: Evaluation) -> None:
        self._write("evaluation", evaluation)

    def run_stopped(self, outcome: Outcome) -> None:
        self._write("outcome", outcome)
        self._file.close()

    def _write(self, event: str, record: Step | Evaluation | Outcome) -> None:
        self._file.write(json.dumps({"event": event, **asdict(record)}) + "\n")
