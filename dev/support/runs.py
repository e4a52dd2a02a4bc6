"""Start runs of the product and read what they wrote, for tests and for tools of dev/."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama31.config import paths
from llama31.run_dir import record
from llama31.run_dir.events import Outcome
from llama31.settings import names

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Run:
    """A finished run."""

    run_dir: Path
    printed: str
    exit_code: int

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the metrics of one kind, such as step, evaluation or outcome."""
        lines = (self.run_dir / paths.METRICS).read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def losses(self) -> list[float]:
        """Return the training loss of each step."""
        return [event["loss"] for event in self.events("step")]

    @property
    def outcome(self) -> Outcome:
        """Outcome of the run. Raises AssertionError if it has none."""
        outcome = record.load_outcome(self.run_dir)
        assert outcome, f"no outcome in {self.run_dir}; its logs: {self.logs()}"
        return outcome

    def logs(self) -> str:
        """Return the ends of the ranks' logs."""
        files = sorted((self.run_dir / paths.RANK_LOGS).iterdir())
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)


def arguments(settings: Mapping[str, object]) -> list[str]:
    """Return settings as NAME=value for the command line."""
    return [f"{name}={value}" for name, value in settings.items()]


def environment() -> dict[str, str]:
    """Return this environment without settings; run_llama31.sh uses this Python."""
    ours = {name: value for name, value in os.environ.items() if name not in names()}
    return {**ours, "LLAMA31_VENV": sys.prefix}
