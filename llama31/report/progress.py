"""Progress of a run on the screen: a live line on a terminal, a line now and then elsewhere."""

import time
from typing import TextIO

from llama31 import rules
from llama31.events import Evaluation, Observer, Outcome, Saved, Step
from llama31.report.reading import size
from llama31.settings import Settings

PLAIN_INTERVAL = 15.0  # seconds between lines where output is no terminal
SMOOTHING = 0.1  # weight of the newest step in the mean step time


class Progress(Observer):
    """Writes step, samples, loss, tokens/s and the time to the next evaluation and to the last step.

    Args:
        settings: Settings of the run.
        last_step: Optimizer step at which the run ends if it does not reach its target.
        out: Where to write; a live line if it is a terminal.
    """

    def __init__(self, settings: Settings, last_step: int, out: TextIO):
        self.settings = settings
        self.last_step = last_step
        self.out = out
        self._live = out.isatty()
        self._step_seconds: float | None = None
        self._shown_at = 0.0

    def run_started(self, consumed_samples: int) -> None:
        self._line(f"training: {self.settings.gbs} sequences of {self.settings.seq_length} tokens a step")

    def step_ended(self, step: Step) -> None:
        former = self._step_seconds or step.seconds
        self._step_seconds = former + SMOOTHING * (step.seconds - former)
        now = time.monotonic()
        if not self._live and now - self._shown_at < PLAIN_INTERVAL and step.step > 1:
            return
        self._shown_at = now
        interval = rules.steps_between_evaluations(self.settings.eval_every, self.settings.gbs)
        to_evaluation = interval - step.step % interval
        tokens_per_second = self.settings.gbs * self.settings.seq_length / self._step_seconds
        text = (
            f"step {step.step:,}/{self.last_step:,} | {step.consumed_samples:,} samples | loss {step.loss:.4f} | "
            f"lr {step.learning_rate:.2e} | {tokens_per_second:,.0f} tokens/s | "
            f"next evaluation in {self._eta(to_evaluation)} | ends by {self._eta(self.last_step - step.step)}"
        )
        if self._live:
            self.out.write(f"\r\x1b[K{text}")
            self.out.flush()
        else:
            self._line(text)

    def evaluation_ended(self, evaluation: Evaluation) -> None:
        verdict = "reached" if evaluation.reached_target else "above"
        self._line(
            f"evaluation at step {evaluation.step:,} ({evaluation.consumed_samples:,} samples): "
            f"validation loss {evaluation.loss:.4f}, {verdict} the target {self.settings.target}; "
            f"{evaluation.samples:,} sequences in {evaluation.seconds:.1f} s"
        )

    def checkpoint_saved(self, saved: Saved) -> None:
        self._line(f"saved after step {saved.step:,}: {saved.path}, {size(saved.bytes)} in {saved.seconds:.1f} s")

    def run_stopped(self, outcome: Outcome) -> None:
        if self._live:
            self._line("")

    def _eta(self, steps: int) -> str:
        """Time for so many steps, h:mm:ss."""
        seconds = round(steps * (self._step_seconds or 0))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _line(self, text: str) -> None:
        self.out.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
        self.out.flush()
