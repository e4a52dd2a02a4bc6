"""Summary of a finished run in a few lines."""

from collections.abc import Iterator
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.json_files import from_json, parsed
from llama31.common.printable import printable
from llama31.common.units import size
from llama31.config import paths
from llama31.run_dir.events import Evaluation, Outcome, Step
from llama31.settings import Settings


def lines(run_dir: Path, settings: Settings, outcome: Outcome) -> Iterator[str]:
    """Yield lines with the outcome, losses, counts, speed and directory of a run.

    tokens/s counts training steps only; the wall time includes evaluations.
    """
    yield printable(f"{outcome.status}: {outcome.reason}")
    steps, evaluations = _events(run_dir / paths.METRICS)
    tokens = outcome.consumed_samples * settings.seq_length
    yield f"steps {outcome.step:,}, samples {outcome.consumed_samples:,}, tokens {tokens:,}"
    if evaluations:
        yield f"validation loss {evaluations[-1].loss:.4f}, target {settings.target:g}"
    if steps:
        training = sum(step.seconds for step in steps)
        wall = training + sum(evaluation.seconds for evaluation in evaluations)
        tokens_per_second = len(steps) * settings.gbs * settings.seq_length / training if training else 0
        yield f"training loss {steps[-1].loss:.4f}, {tokens_per_second:,.0f} tokens/s, wall time {wall:.0f} s"
    if outcome.memory is not None:
        yield f"memory: {size(outcome.memory)} on the fullest rank, at the most"
    yield f"run directory: {run_dir}"


def _events(file: Path) -> tuple[list[Step], list[Evaluation]]:
    """Return the steps and evaluations of a metrics file, if any; a last line cut off by a full disk is skipped."""
    whole = file.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0] if file.is_file() else ""
    steps: list[Step] = []
    evaluations: list[Evaluation] = []
    try:
        for line in whole.splitlines():
            event = parsed(line)
            if event["event"] == "step":
                steps.append(from_json(Step, event))
            elif event["event"] == "evaluation":
                evaluations.append(from_json(Evaluation, event))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged: {error!r:.100}") from error
    return steps, evaluations
