"""Validation data of a run: fingerprints of its tokens, from the metrics beside its MLPerf log, which has none."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlperf_logging.mllog import constants

from llama31.common.files import failures_named
from llama31.config import paths
from llama31.mlperf.log.reader import BLOCK, parse_json, reason_of
from llama31.mlperf.log.records import Damage, Damages, Log, Violation, shown

KEY = "token_hash"


@dataclass
class Evaluated:
    """Fingerprints of the evaluated tokens, from the metrics of a run directory."""

    evaluations: int
    """Number of evaluations with a result in the log."""
    hashes: list[str] = field(default_factory=list)
    damages: Damages = field(default_factory=Damages)

    @property
    def is_known(self) -> bool:
        """Whether each evaluation of the log has a fingerprint."""
        return 0 < self.evaluations <= len(self.hashes)

    @property
    def findings(self) -> list[Violation]:
        """A violation if evaluations have different tokens."""
        different = sorted(set(self.hashes))
        return [Violation(KEY, shown(different), "one, the same in all evaluations")] if len(different) > 1 else []

    @property
    def checks(self) -> dict[str, list[Violation]]:
        """Check -> violations; empty if the data is unknown."""
        return {"all evaluations are of the same data": self.findings} if self.findings or self.is_known else {}

    @property
    def notes(self) -> Iterator[str]:
        """Why the data is unknown."""
        if self.damages.count:
            yield f"{paths.METRICS}: found {self.damages}"
        if not self.is_known:
            yield f"{KEY}: known for {len(self.hashes)} of {self.evaluations} evaluations"


def read(file: Path, log: Log) -> Evaluated | None:
    """Read the metrics beside a log; None if there are none, as with other projects' logs."""
    metrics = file.with_name(paths.METRICS)
    if file.name != paths.MLPERF_LOG or not metrics.is_file():
        return None
    found = Evaluated(len(log.all(constants.EVAL_ACCURACY)))
    with failures_named(metrics), metrics.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(BLOCK), b""), start=1):
            try:
                event = parse_json(line)
                if event["event"] == "evaluation":
                    found.hashes.append(str(event[KEY]))
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                found.damages.add(Damage(number, reason_of(error)))
    return found
