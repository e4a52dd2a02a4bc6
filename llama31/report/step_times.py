"""Step times of a run: percentiles and outliers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llama31.report.logs import STEP_TIME, LogData, Metrics, Series

FAR_OUT = 3.0  # interquartile ranges above the upper quartile: Tukey 1977, Exploratory Data Analysis, chapter 2


@dataclass(frozen=True)
class StepTimes:
    """Seconds per step."""

    kind: str  # of values, for the table
    seconds: np.ndarray
    steps: np.ndarray  # number of each step; nan if unknown

    def percentile(self, percent: float) -> float:
        """Return a percentile, with linear interpolation between values."""
        return float(np.percentile(self.seconds, percent))

    @cached_property
    def limit(self) -> float:
        """Upper quartile + 3 interquartile ranges; a longer step is an outlier."""
        lower, upper = self.percentile(25), self.percentile(75)
        return upper + FAR_OUT * (upper - lower)

    @cached_property
    def outliers(self) -> np.ndarray:
        """Indices of the outliers, slowest first."""
        found = np.flatnonzero(self.seconds > self.limit)
        return found[np.argsort(-self.seconds[found], kind="stable")]


def of_run(mlperf: LogData, metrics: Metrics, means: Sequence[float]) -> StepTimes | None:
    """Return the time of each step from the metrics, else of the steps in the log, else means between evaluations."""
    for kind, series in (("each step", metrics.seconds), ("steps in the log", named_steps(mlperf, STEP_TIME))):
        if series.value:
            return StepTimes(kind, np.array(series.value), np.array(series.step))
    if not means:
        return None
    return StepTimes("mean of each block between evaluations", np.array(means), np.full(len(means), math.nan))


def named_steps(mlperf: LogData, name: str) -> Series:
    """Return the values of a statistic that name their step; the others are means."""
    series = mlperf.statistics.get(name, Series())
    named = Series()
    for row in zip(series.value, series.samples, series.step, strict=True):
        if not math.isnan(row[-1]):
            named.add(*row)
    return named
