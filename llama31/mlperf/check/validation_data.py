"""What a run evaluated: the fingerprints of its validation tokens, beside its MLPerf log, which itself holds none."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlperf_logging.mllog import constants

from llama31.common.files import failures_named
from llama31.config import paths
from llama31.mlperf.log.reader import BLOCK, parsed, why
from llama31.mlperf.log.records import Damage, Damages, Log, Violation, shown

KEY = "token_hash"


@dataclass
class Evaluated:
    """Validation data, by the metrics of a run directory."""

    evaluations: int
    """Evaluations that have a result in the log."""
    hashes: list[str] = field(default_factory=list)
    """Of each evaluation that the metrics tell of."""
    damages: Damages = field(default_factory=Damages)

    @property
    def is_known(self) -> bool:
        """There is a fingerprint for each evaluation of the log."""
        return 0 < self.evaluations <= len(self.hashes)

    @property
    def findings(self) -> list[Violation]:
        """Tokens that differ from one evaluation to another."""
        different = sorted(set(self.hashes))
        return [Violation(KEY, shown(different), "one, the same in all evaluations")] if len(different) > 1 else []

    @property
    def holds(self) -> bool:
        """All evaluations are known to be of the same data."""
        return self.is_known and not self.findings

    @property
    def checks(self) -> dict[str, list[Violation]]:
        """What was looked at -> what is wrong there; nothing where nothing can be said."""
        return {"all evaluations are of the same data": self.findings} if self.findings or self.is_known else {}

    @property
    def notes(self) -> Iterator[str]:
        """What keeps the data from being known."""
        if self.damages.count:
            yield f"{paths.METRICS}: found {self.damages}"
        if not self.is_known:
            yield f"{KEY}: known for {len(self.hashes)} of {self.evaluations} evaluations"


def beside(file: Path, log: Log) -> Evaluated | None:
    """What the metrics beside a log say; None where there are none, as with other projects' logs."""
    metrics = file.with_name(paths.METRICS)
    if file.name != paths.MLPERF_LOG or not metrics.is_file():
        return None
    found = Evaluated(len(log.all(constants.EVAL_ACCURACY)))
    with failures_named(metrics), metrics.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(BLOCK), b""), start=1):
            try:
                event = parsed(line)
                if event["event"] == "evaluation":
                    found.hashes.append(str(event[KEY]))
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                found.damages.add(Damage(number, why(error)))
    return found
