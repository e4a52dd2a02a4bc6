"""Write metrics.jsonl: a JSON line for each step, evaluation, checkpoint and outcome."""

import json
from dataclasses import asdict
from pathlib import Path

from llama31.run_dir.events import Evaluation, Observer, Outcome, RankTimes, Saved, Step


class MetricsWriter(Observer):
    """Append events to a file, one JSON line each: {"event": KIND, ...its fields}.

    The kinds are step, ranks, evaluation, checkpoint and outcome.
    """

    def __init__(self, path: Path):
        self._file = path.open("a", buffering=1, encoding="utf-8")  # a line is whole on disk, or not there

    def step_ended(self, step: Step) -> None:
        self._write("step", step)

    def ranks_timed(self, times: RankTimes) -> None:
        self._write("ranks", times)

    def evaluation_ended(self, evaluation: Evaluation) -> None:
        self._write("evaluation", evaluation)

    def checkpoint_saved(self, saved: Saved) -> None:
        self._write("checkpoint", saved)

    def run_stopped(self, outcome: Outcome) -> None:
        self._write("outcome", outcome)
        self._file.close()

    def _write(self, event: str, record: Step | RankTimes | Evaluation | Saved | Outcome) -> None:
        self._file.write(json.dumps({"event": event, **asdict(record)}) + "\n")
