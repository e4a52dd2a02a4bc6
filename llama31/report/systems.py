"""Group repeated runs into systems, as the ten of a submission, and compute their scores."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.common.files import real_path
from llama31.config import paths
from llama31.report.figures import Figures

LEAST_RUNS = 3  # one more than the fastest and the slowest
SAME_KEYS = (
    constants.SUBMISSION_BENCHMARK,
    constants.SUBMISSION_DIVISION,
    constants.SUBMISSION_ORG,
    constants.SUBMISSION_PLATFORM,
    constants.GLOBAL_BATCH_SIZE,
    constants.MAX_SEQUENCE_LENGTH,
    constants.OPT_BASE_LR,
    constants.OPT_LR_WARMUP_STEPS,
)
"""Log keys in which the runs of one system must agree."""


@dataclass(frozen=True)
class System:
    """Runs that differ only in their seed."""

    name: str
    runs: Sequence[Figures]

    @property
    def successful(self) -> list[Figures]:
        """Runs that reached the target, fastest first."""
        timed = [run for run in self.runs if run.is_success and run.time_to_train is not None]
        return sorted(timed, key=lambda run: run.time_to_train or 0)

    @property
    def scored(self) -> list[Figures]:
        """Runs that the score covers: all but the fastest and the slowest; empty without a score.

        As in MLPerf's training rules, a failed run is the slowest, and two failed runs mean no score. So do more runs
        than a submission has, since nothing says which of them count.
        """
        number = len(self.runs)
        if not LEAST_RUNS <= number <= rules.RUNS_PER_SUBMISSION or number - len(self.successful) > 1:
            return []
        return self.successful[1 : number - 1]

    @property
    def score(self) -> float | None:
        """Mean time to train of `scored`, in seconds, without MLPerf's scaling by convergence."""
        return float(np.mean([run.time_to_train for run in self.scored])) if self.scored else None

    @property
    def no_score(self) -> str:
        """Why several runs have no score; empty if they have one."""
        if self.scored or len(self.runs) == 1:
            return ""
        most, found = rules.RUNS_PER_SUBMISSION, len(self.runs)
        if found > most:
            return f"no score: it covers at most {most} runs, these are {found}; give the {most} that count"
        return f"no score: it needs {LEAST_RUNS} runs, and all but one must reach the target"

    @property
    def time(self) -> float | None:
        """The score, else the median time to train of the runs that reached the target."""
        times = [run.time_to_train for run in self.successful]
        return self.score or (float(np.median(times)) if times else None)

    @property
    def mean_samples(self) -> float | None:
        """Mean samples to target of the runs that the score covers, else of all that reached the target."""
        found = [run.samples_to_target for run in self.scored or self.runs if run.samples_to_target is not None]
        return float(np.mean(found)) if found else None

    @property
    def repeated_seeds(self) -> list[str]:
        """Seeds of more than one run; the seeds of a submission all differ."""
        seeds = Counter(str(run.log.value(constants.SEED)) for run in self.runs if run.log.first(constants.SEED))
        return [seed for seed, count in seeds.items() if count > 1]

    def median(self, figure: str) -> float | None:
        """Return the median of a figure over the runs that have it, or None."""
        found = [value for run in self.runs if (value := getattr(run, figure)) is not None]
        return float(np.median(found)) if found else None


def grouped(runs: Sequence[Figures]) -> list[System]:
    """Return the systems of these runs, in order: runs that agree in `SAME_KEYS` and are in one directory.

    Organisation and platform do not suffice to tell systems apart: many logs have placeholders there, or another
    submitter's names.
    """
    found: dict[tuple[str, ...], list[Figures]] = {}
    for run in runs:
        found.setdefault((*_key(run), str(_directory(run))), []).append(run)
    directories: dict[str, set[Path]] = {}
    for first, *_ in found.values():
        directories.setdefault(_name(first), set()).add(_directory(first))
    systems: list[System] = []
    for group in found.values():
        name = _name(group[0])
        if len(directories[name]) > 1:
            name += f", {_directory(group[0]).name}"
        same = sum(system.name == name or system.name.startswith(f"{name}, ") for system in systems)
        systems.append(System(f"{name}, {same + 1}" if same else name, group))
    return systems


def same_description(systems: Sequence[System]) -> list[str]:
    """Return a line for each group of systems that only their directories tell apart."""
    found: dict[tuple[str, ...], list[System]] = {}
    for system in systems:
        found.setdefault(_key(system.runs[0]), []).append(system)
    return [
        f"{'; '.join(system.name for system in group)}: their logs describe one system, but are in "
        f"{len(group)} directories, so each has a score of its own"
        for group in found.values()
        if len(group) > 1
    ]


def _key(run: Figures) -> tuple[str, ...]:
    return (*(str(run.log.value(key)) for key in SAME_KEYS), str(run.devices), run.gpu)


def _directory(run: Figures) -> Path:
    """Return the directory of a run's log, or of its run directory: results of one system are siblings.

    The jobs of a run that was submitted to Slurm have subdirectories in the run directory.
    """
    log = real_path(run.run.path)
    if log.name != paths.MLPERF_LOG:
        return log.parent
    above = log.parent.parent
    return above.parent if (above / paths.SUBMISSION).is_file() else above


def _name(run: Figures) -> str:
    """Name a system by organisation and platform, or else by directory, and by batch size."""
    stated = [run.log.value(key) for key in (constants.SUBMISSION_ORG, constants.SUBMISSION_PLATFORM)]
    names = [str(name) for name in stated if name and name != "unset" and "PLACEHOLDER" not in str(name)]
    return f"{', '.join(names) or real_path(run.run.path).parent.name}, GBS {run.batch or 'unknown'}"
