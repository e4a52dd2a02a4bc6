"""Compare convergence with MLCommons' reference convergence points (RCPs): too few samples means rejection.

`official` gives the verdict of mlperf-logging's rcp_checker on the logs of a submission; `Points.early` predicts it
from the runs so far. Points are those of one ruleset (rcp_checker/training_*/rcps_llama31_8b.json), pruned as in
package_checker.
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

PASS = "pruned_rcps"  # as in package_checker
SLOWER = "slower than the reference"
COUNTED = rules.RUNS_PER_SUBMISSION - 2  # runs in a submission's mean


@dataclass(frozen=True)
class Reference:
    """Samples (training sequences) that the reference needs to converge at one global batch size."""

    global_batch_size: int
    """The submission's, or the smallest that has a point if the submission's is smaller still."""
    mean: float
    deviation: float  # standard deviation over single runs
    runs: int  # number of reference runs behind the mean
    source: str  # for messages

    def __str__(self) -> str:
        figures = f"mean {self.mean:,.0f} samples, minimum {self.minimum():,.0f}"
        return f"{figures}, at global batch size {self.global_batch_size} ({self.source})"

    def minimum(self, runs: int = COUNTED) -> float:
        """Return the smallest mean of `runs` runs that is not faster than the reference (one-sided t-test, 5%).

        rcp_checker's _find_min_acceptable_mean searches for the same value, always with 8 runs: a submission's without
        its fastest and slowest.
        """
        quantile = scipy.stats.t.ppf(0.95, self.runs + runs - 2)
        return float(self.mean - quantile * self.deviation * (1 / self.runs + 1 / runs) ** 0.5)

    def maximum(self, runs: int = COUNTED) -> float:
        """Return the largest mean of `runs` runs that is not slower than the reference, by the same test."""
        return 2 * self.mean - self.minimum(runs)


@dataclass(frozen=True)
class Verdict:
    """Verdict on the convergence of some runs."""

    text: str
    passes: bool
    scaling: float | None = None
    """Factor on the official score; None unless the verdict is official."""


class Points:
    """Reference points of a ruleset."""

    def __init__(self, ruleset: str):
        self.ruleset = ruleset
        self._checker = rcp_checker.RCP_Checker("training", ruleset, rules.BENCHMARK, verbose=False)

    def reference(self, batch: int) -> Reference | None:
        """Return the reference that rcp_checker.check_directory uses; None above the largest batch size with a point.

        Between two points rcp_checker interpolates mean and deviation linearly in the batch size (_create_interp_rcp)
        and counts the result as 20 runs. Below the smallest batch size it uses the smallest.
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
        """Predict the verdict from the runs so far.

        `converged` are the samples that runs needed to reach the target, `others` the samples so far of runs that have
        not reached it. The mean of few runs scatters more than that of ten, so only a significant difference counts as
        too fast (see `Reference.minimum`) or as slower. One run is never too fast.

        Of parallel runs the fastest end first, which biases the mean. So the others that have got as far count too, as
        if they converged at their next evaluation, the least that they can need.
        """
        reference = self.reference(batch)
        if reference is None:
            return Verdict(f"would be rejected: {_no_point(batch)}", passes=False)
        interval = rules.steps_between_evaluations(rules.EVAL_EVERY, batch) * batch
        further = [samples + interval for samples in others if converged and samples >= fmean(converged)]
        number, longest = len(converged) + len(further), max(others, default=0)
        runs = min(max(number, 1), COUNTED)
        fastest, slowest = reference.minimum(runs), reference.maximum(runs)
        if not converged:
            found = f"no run has reached the target yet; the longest is at {longest:,} samples"
            word = SLOWER if longest > slowest else "too early to say"
            return Verdict(f"{word}: {found}", passes=True)
        mean = fmean([*converged, *further])
        found = f"{mean:,.0f} samples, mean of {_runs(len(converged))} that reached the target"
        if further:
            found += f" and {_runs(len(further))} as far without it, assumed to reach it at the next evaluation"
        text = f"on track: {found}"
        if mean < fastest and number > 1:
            text = f"converges faster than the reference's minimum: would be rejected: {found}; unlikely by chance"
            return Verdict(text, passes=False)
        if mean < fastest:
            text = f"too early to say: {found}; unlikely by chance, but one run proves nothing"
        elif mean < reference.minimum():
            text = f"too early to say: {found}; less than the minimum, but possible by chance with so few runs"
        elif mean > slowest:
            text = f"{SLOWER}: {found}; no rule against it"
        return Verdict(text, passes=True)

    def _of(self, record: dict[str, Any], source: str) -> Reference:
        runs = len(record["Epochs to converge"])  # none if interpolated
        runs = runs - 2 if runs else 2 * rules.RUNS_PER_SUBMISSION
        return Reference(record["BS"], float(record["RCP Mean"]), float(record["RCP Stdev"]), runs, source)


def official(logs: Sequence[Log], points: Points) -> Verdict:
    """Return rcp_checker's verdict on the ten logs of a submission, reworded."""
    try:
        with tempfile.TemporaryDirectory() as directory, _silent():
            for number, log in enumerate(logs):  # only the lines that rcp_checker reads: it holds whole files in memory
                lines = [TOKEN.encode() + record.text + b"\n" for record in log.records if record.text]
                (Path(directory) / f"result_{number}.txt").write_bytes(b"".join(lines))
            accepted, message, scaling = rcp_checker.check_directory(
                directory,
                "training",
                points.ruleset,
                verbose=False,
                bert_train_samples=False,
                rcp_pass=PASS,
                set_scaling=True,  # writes scaling.json beside the logs; without, it removes /scaling.json
            )
    except (ValueError, LookupError, TypeError, NameError, OverflowError) as error:  # raised on unexpected log contents
        return Verdict(f"not judged: rcp_checker fails on these logs ({error!r})", passes=False)
    except OSError as error:
        return Verdict(f"not judged: cannot write temporary files for rcp_checker: {error.strerror}", passes=False)
    batch = logs[0].whole(constants.GLOBAL_BATCH_SIZE)
    if message.startswith("Could not detect") or batch is None:
        return Verdict("rejected: the logs have no common global batch size", passes=False)
    if message.startswith("Insufficient"):
        return Verdict("rejected: more than one run did not converge", passes=False)
    samples = [score.samples(log) if score.says_success(log) else None for log in logs]
    mean = score.olympic_mean([math.inf if count is None else count for count in samples])
    return _reworded(accepted, message, scaling, mean, batch, points)


def _reworded(accepted: bool, message: str, scaling: float, mean: float, batch: int, points: Points) -> Verdict:
    reference = points.reference(batch)
    if reference is None:
        return Verdict(f"rejected: {_no_point(batch)}", passes=False)
    found = f"{mean:,.0f} samples, mean of {_runs(COUNTED)} without the fastest and the slowest"
    if not accepted:
        text = f"rejected: converges faster than the reference's minimum: {found}"
        if message.startswith("Missing RCP"):
            text += f"; the reference has no point for a batch as small as {batch}"
        return Verdict(text, passes=False)
    if scaling == 1:
        if mean > reference.maximum():
            found += f"; {SLOWER}, no rule against it"
        return Verdict(f"accepted: {found}", passes=True, scaling=1.0)
    text = f"accepted: {found}; faster than the reference's mean, so the time is multiplied by {scaling:.4f}"
    return Verdict(text, passes=True, scaling=float(scaling))


def _no_point(batch: int) -> str:
    return f"the reference has no point for a batch as large as {batch}; MLCommons asks for reference runs of that size"


def _runs(number: int) -> str:
    return f"{number} run{'s' if number > 1 else ''}"


@contextmanager
def _silent() -> Iterator[None]:
    """Silence rcp_checker's log; the handler keeps it from configuring the root logger."""
    before, handler = logging.root.manager.disable, logging.NullHandler()
    logging.root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
        logging.root.removeHandler(handler)
