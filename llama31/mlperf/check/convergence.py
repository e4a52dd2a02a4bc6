"""Convergence against MLCommons' reference convergence points (RCPs): a submission must not need fewer samples.

`official` gives the verdict of mlperf-logging's rcp_checker on the logs of a submission. `Points.early` says what the
runs so far let one expect of it. Points are those of one ruleset (rcp_checker/training_*/rcps_llama31_8b.json), pruned
as package_checker has them.
"""

import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import scipy.stats
from mlperf_logging.mllog import constants
from mlperf_logging.rcp_checker import rcp_checker

from llama31 import rules
from llama31.mlperf.check import score
from llama31.mlperf.log.reader import TOKEN
from llama31.mlperf.log.records import Log

PASS = "pruned_rcps"  # what package_checker asks for
SLOWER = "slower than the reference"
COUNTED = rules.RUNS_PER_SUBMISSION - 2  # runs in a submission's mean


@dataclass(frozen=True)
class Reference:
    """How many samples (training sequences) the reference needs at one global batch size."""

    global_batch_size: int
    """The submission's, or the smallest that has a point where the submission's is smaller still."""
    mean: float
    deviation: float
    """Standard deviation of one run."""
    runs: int
    """Reference runs that the mean stands on."""
    source: str
    """Where the figures come from, in words."""

    def __str__(self) -> str:
        figures = f"mean {self.mean:,.0f} samples, minimum {self.minimum():,.0f}"
        return f"{figures}, at global batch size {self.global_batch_size} ({self.source})"

    def minimum(self, runs: int = COUNTED) -> float:
        """Smallest mean of so many runs that is not faster than the reference, by a one-sided t-test at 5%.

        rcp_checker's _find_min_acceptable_mean searches for the same: the mean at which Student's t for two samples of
        the reference's deviation reaches its 95th percentile. It always takes 8 runs, a submission's without its
        fastest and slowest.
        """
        quantile = scipy.stats.t.ppf(0.95, self.runs + runs - 2)
        return float(self.mean - quantile * self.deviation * (1 / self.runs + 1 / runs) ** 0.5)

    def maximum(self, runs: int = COUNTED) -> float:
        """Largest mean of so many runs that is not slower than the reference, by the same test."""
        return 2 * self.mean - self.minimum(runs)


@dataclass(frozen=True)
class Verdict:
    """What is to be said of some runs' convergence."""

    words: str
    holds: bool
    scaling: float | None = None
    """What the official score is multiplied by; None before there is an official verdict."""


class Points:
    """The reference points of a ruleset."""

    def __init__(self, ruleset: str):
        self.ruleset = ruleset
        self._checker = rcp_checker.RCP_Checker("training", ruleset, rules.BENCHMARK, verbose=False)

    def reference(self, batch: int) -> Reference | None:
        """What the official checker compares with (rcp_checker.check_directory); None above the largest batch size.

        Between two points it interpolates mean and deviation linearly in the batch size (_create_interp_rcp) and takes
        them for those of 20 runs. Below the smallest it takes the smallest.
        """
        if record := self._checker._find_rcp(batch, PASS):
            return self._of(record, f"a point of ruleset {self.ruleset}")
        low, high = self._checker._find_top_min_rcp(batch, PASS), self._checker._find_bottom_max_rcp(batch, PASS)
        if high is None:
            return None
        if low is None:
            return self._of(high, f"the smallest batch size that has a point in ruleset {self.ruleset}")
        _, record = self._checker._create_interp_rcp(batch, low, high)
        return self._of(record, f"interpolated from {low['BS']} and {high['BS']} of ruleset {self.ruleset}")

    def early(self, batch: int, converged: Sequence[int], others: Sequence[int]) -> Verdict:
        """What the runs so far let one expect.

        `converged` are the samples that runs needed to reach the target, `others` those of runs that did not, or not
        yet. The mean of few runs scatters more than that of ten: too fast is what no chance explains (see
        `Reference.minimum`), and too slow the same on the other side. One run alone is never too fast.

        Of runs side by side the fastest end first. So the others that have come as far count too, as if they ended
        with their next evaluation, which is the least that they need.
        """
        reference = self.reference(batch)
        if reference is None:
            return Verdict(f"would be rejected: {_no_point(batch)}", holds=False)
        interval = rules.steps_between_evaluations(rules.EVAL_EVERY, batch) * batch
        further = [samples + interval for samples in others if converged and samples >= fmean(converged)]
        number, longest = len(converged) + len(further), max(others, default=0)
        runs = min(max(number, 1), COUNTED)
        fastest, slowest = reference.minimum(runs), reference.maximum(runs)
        if not converged:
            found = f"no run has reached the target yet; the longest is at {longest:,} samples"
            word = SLOWER if longest > slowest else "too early to say"
            return Verdict(f"{word}: {found}", holds=True)
        mean = fmean([*converged, *further])
        found = f"{mean:,.0f} samples, mean of {_runs(len(converged))} that reached the target"
        if further:
            found += f" and {_runs(len(further))} as far without it, taken to end with the next evaluation"
        if mean < fastest and number > 1:
            words = (
                f"converges faster than the reference's minimum: would be rejected: {found}; chance seldom does that"
            )
            return Verdict(words, holds=False)
        if mean < fastest:
            words = f"too early to say: {found}; chance seldom does that, but one run proves nothing"
            return Verdict(words, holds=True)
        if mean < reference.minimum():
            words = f"too early to say: {found}; that is less than the minimum, but so few runs come out so by chance"
            return Verdict(words, holds=True)
        if mean > slowest:
            return Verdict(f"{SLOWER}: {found}; no rule against it", holds=True)
        return Verdict(f"on course: {found}", holds=True)

    def _of(self, record: dict[str, Any], source: str) -> Reference:
        runs = len(record["Epochs to converge"])  # none where it was interpolated
        runs = runs - 2 if runs else 2 * rules.RUNS_PER_SUBMISSION
        return Reference(record["BS"], float(record["RCP Mean"]), float(record["RCP Stdev"]), runs, source)


def official(logs: Sequence[Log], points: Points) -> Verdict:
    """rcp_checker's own verdict on the ten logs of a submission, in words."""
    try:
        with tempfile.TemporaryDirectory() as directory, _silent():
            for number, log in enumerate(logs):
                _write_read_lines(log, Path(directory) / f"result_{number}.txt")
            accepted, message, scaling = rcp_checker.check_directory(
                directory,
                "training",
                points.ruleset,
                verbose=False,
                bert_train_samples=False,
                rcp_pass=PASS,
                set_scaling=True,  # writes scaling.json beside the logs; without, it removes /scaling.json
            )
    except (ValueError, LookupError, TypeError, NameError, OverflowError) as error:  # it relies on what logs should say
        return Verdict(f"not judged: rcp_checker breaks off at what these logs say ({error!r})", holds=False)
    except OSError as error:
        return Verdict(f"not judged: no temporary files can be written for rcp_checker: {error.strerror}", holds=False)
    batch = logs[0].whole(constants.GLOBAL_BATCH_SIZE)
    if message.startswith("Could not detect") or batch is None:
        return Verdict("rejected: the logs do not say one global batch size", holds=False)
    if message.startswith("Insufficient"):
        return Verdict("rejected: more than one run did not converge", holds=False)
    samples = [score.samples(log) if score.says_success(log) else None for log in logs]
    mean = score.olympic_mean([math.inf if count is None else count for count in samples])
    return _in_words(accepted, message, scaling, mean, batch, points)


def _write_read_lines(log: Log, file: Path) -> None:
    """Write the lines that rcp_checker reads, as they are in the log; it holds a whole file in memory."""
    file.write_bytes(b"".join(TOKEN.encode() + record.text + b"\n" for record in log.records if record.text))


def _in_words(accepted: bool, message: str, scaling: float, mean: float, batch: int, points: Points) -> Verdict:
    reference = points.reference(batch)
    if reference is None:
        return Verdict(f"rejected: {_no_point(batch)}", holds=False)
    found = f"{mean:,.0f} samples, mean of {_runs(COUNTED)} without the fastest and the slowest"
    if not accepted:
        words = f"rejected: converges faster than the reference's minimum: {found}"
        if message.startswith("Missing RCP"):
            words += f"; the reference has no point for a batch as small as {batch}"
        return Verdict(words, holds=False)
    if scaling == 1:
        if mean > reference.maximum():
            found += f"; {SLOWER}, no rule against it"
        return Verdict(f"accepted: {found}", holds=True, scaling=1.0)
    words = f"accepted: {found}; faster than the reference's mean, so the time is multiplied by {scaling:.4f}"
    return Verdict(words, holds=True, scaling=float(scaling))


def _no_point(batch: int) -> str:
    return f"the reference has no point for a batch as large as {batch}; MLCommons asks for reference runs of that size"


def _runs(number: int) -> str:
    return f"{number} run{'s' if number > 1 else ''}"


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps rcp_checker's log from the console; with a handler there, it does not set up the root logger."""
    before, handler = logging.root.manager.disable, logging.NullHandler()
    logging.root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
        logging.root.removeHandler(handler)
