"""Runs that repeat one another, as a submission's ten do, and their score; the systems of the last published round."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlperf_logging.mllog import constants

from llama31.report.figures import Figures

LEAST_RUNS = 3  # below that nothing is left between the fastest and the slowest
ALIKE = (
    constants.SUBMISSION_BENCHMARK,
    constants.SUBMISSION_DIVISION,
    constants.SUBMISSION_ORG,
    constants.SUBMISSION_PLATFORM,
    constants.GLOBAL_BATCH_SIZE,
    constants.MAX_SEQUENCE_LENGTH,
    constants.OPT_BASE_LR,
    constants.OPT_LR_WARMUP_STEPS,
)
"""What runs must have in common to be runs of one system."""


@dataclass(frozen=True)
class System:
    """Runs that differ in their seed alone."""

    name: str
    runs: Sequence[Figures]

    @property
    def times(self) -> list[float]:
        """Seconds to train of the runs that reached the target, fastest first."""
        return sorted(run.time_to_train for run in self.runs if run.is_success and run.time_to_train is not None)

    @property
    def score(self) -> float | None:
        """Mean time to train, in seconds, without the fastest and the slowest run.

        As in MLPerf's training rules, of which the scaling by convergence is left out: a run without success is the
        slowest, and with two of them there is no score.
        """
        times = self.times
        if len(self.runs) < LEAST_RUNS or len(self.runs) - len(times) > 1:
            return None
        return float(np.mean(times[1 : len(self.runs) - 1]))

    @property
    def time(self) -> float | None:
        """The score, else the time to train of the runs that reached the target, their median."""
        return self.score or (float(np.median(self.times)) if self.times else None)

    @property
    def mean_samples(self) -> float | None:
        """Mean of the samples to target, of the runs that reached it."""
        found = [run.samples_to_target for run in self.runs if run.samples_to_target is not None]
        return float(np.mean(found)) if found else None

    @property
    def repeated_seeds(self) -> list[str]:
        """Seeds of more than one run: a submission's are all different."""
        seeds = Counter(str(run.log.value(constants.SEED)) for run in self.runs if run.log.first(constants.SEED))
        return [seed for seed, count in seeds.items() if count > 1]

    def median(self, figure: str) -> float | None:
        """Median of a figure over the runs that have it."""
        found = [value for run in self.runs if (value := getattr(run, figure)) is not None]
        return float(np.median(found)) if found else None


def grouped(runs: Sequence[Figures]) -> list[System]:
    """The systems of these runs, in their order."""
    found: dict[tuple[str, ...], list[Figures]] = {}
    for run in runs:
        alike = [str(run.log.value(key)) for key in ALIKE]
        found.setdefault((*alike, str(run.devices), run.gpu), []).append(run)
    systems: list[System] = []
    for group in found.values():
        name = _name(group[0])
        same = sum(system.name == name or system.name.startswith(f"{name}, ") for system in systems)
        systems.append(System(f"{name}, {same + 1}" if same else name, group))
    return systems


def _name(run: Figures) -> str:
    """Organisation and platform as the log has them, or where it lies, and the batch size."""
    said = [run.log.value(key) for key in (constants.SUBMISSION_ORG, constants.SUBMISSION_PLATFORM)]
    words = [str(word) for word in said if word and word != "unset" and "PLACEHOLDER" not in str(word)]
    return f"{', '.join(words) or run.run.path.resolve().parent.name}, GBS {run.batch or 'unknown'}"


@dataclass(frozen=True)
class Published:
    """One system of a published round, all figures as its row in the table has them."""

    org: str
    system: str
    accelerators: int
    accelerator: str
    gbs: int
    precision: str
    score_minutes: float
    mean_samples: float
    tokens_per_second_per_accelerator: float
    mfu_bf16_peak: float


TABLE = Path(__file__).with_name("published_v5.1.csv")


def published() -> list[Published]:
    """All systems of MLPerf Training v5.1, fastest first."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    kinds = {name: field.type for name, field in Published.__dataclass_fields__.items()}
    return [Published(**{name: kinds[name](cell) for name, cell in row.items()}) for row in rows]  # type: ignore[operator]
