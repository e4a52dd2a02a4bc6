"""Show the progress of a run: a live line on a terminal, a line every 15 s elsewhere."""

import os
import time
from collections.abc import Iterable
from typing import TextIO

from llama31 import rules
from llama31.common.units import duration, scaled, size
from llama31.config.parallel_layout import Layout
from llama31.estimates import speed
from llama31.estimates.gpus import Gpu
from llama31.run_dir.events import Evaluation, Observer, Outcome, Saved, Step
from llama31.settings import Settings

PLAIN_INTERVAL = 15.0  # seconds between lines if the output is not a terminal
COLUMNS = 80  # if the terminal does not report its width
SMOOTHING = 0.1  # weight of the newest step in the mean step time
DROPPED_FIRST = ("rate", "flops", "samples", "speed", "end", "utilisation", "evaluation")
"""Parts of the live line to drop on a narrow terminal, least important first."""
CLEAR, BOLD, PLAIN = "\r\x1b[K", "\x1b[1m", "\x1b[0m"


def _joined(parts: Iterable[str]) -> str:
    return " | ".join(filter(None, parts))


def _fitting(parts: dict[str, str], columns: int) -> str:
    """Return the parts that fit, joined; others are dropped in the order of DROPPED_FIRST."""
    left = dict(parts)
    for name in DROPPED_FIRST:
        if len(_joined(left.values())) <= columns:
            break
        del left[name]
    return _joined(left.values())[:columns]


class ConsoleProgress(Observer):
    """Print step, samples, loss, speed, and the time to the next evaluation and to the end.

    FLOP/s are per device: `estimates.speed.flops_per_step` / step time / devices. MFU is their share of the device's
    dense bf16 peak, also with fp8. `last_step` is the last one if the target is not reached.
    """

    def __init__(self, settings: Settings, vocab_size: int, last_step: int, gpu: Gpu | None, out: TextIO):
        self.settings = settings
        self.last_step = last_step
        self.gpu = gpu if settings.precision in speed.UTILISATION else None
        self.out = out
        self._devices = Layout.of(settings).world_size
        self._flops = speed.flops_per_step(settings, vocab_size)
        self._interval = rules.steps_between_evaluations(settings.eval_every, settings.gbs)
        self._live = out.isatty()
        self._steps = 0  # of this job; the first also loads kernels and opens connections, so its time says little
        self._step_seconds: float | None = None
        self._evaluation_seconds = 0.0
        self._shown_at = 0.0

    def run_started(self, consumed_samples: int) -> None:
        every = self.settings.log_interval
        late = f"; losses and times are read every {every:,} steps" if every > 1 else ""
        self._line(f"training: {self.settings.gbs} sequences of {self.settings.seq_length} tokens a step{late}")

    def step_ended(self, step: Step) -> None:
        former = self._step_seconds if self._steps > 1 and self._step_seconds else step.seconds
        self._steps += 1
        self._step_seconds = former + SMOOTHING * (step.seconds - former)
        if step.read_after is not None and step.step < step.read_after:
            return  # the last of those that were read together follows at once
        now = time.monotonic()
        if not self._live and now - self._shown_at < PLAIN_INTERVAL and step.step > 1:
            return
        self._shown_at = now
        tokens_per_second, flops, utilisation = self._speed(self._step_seconds)
        parts = {
            "step": f"step {step.step:,}/{self.last_step:,}",
            "samples": f"{step.consumed_samples:,} samples",
            "loss": f"loss {step.loss:.4f}",
            "rate": f"lr {step.learning_rate:.2e}",
            "speed": tokens_per_second,
            "flops": flops,
            "utilisation": utilisation,
            "evaluation": f"next evaluation in {self._eta(step.step, self._interval - step.step % self._interval)}",
            "end": self._end(step),
        }
        if self._live:
            columns = os.get_terminal_size(self.out.fileno()).columns or COLUMNS
            self.out.write(CLEAR + _fitting(parts, columns - 1))  # a wrapped line could not be cleared
            self.out.flush()
        else:
            self._line(_joined(parts.values()))

    def evaluation_ended(self, evaluation: Evaluation) -> None:
        self._evaluation_seconds = evaluation.seconds
        verdict = "reached" if evaluation.reached_target else "above"
        self._line(
            f"==> evaluation at step {evaluation.step:,} ({evaluation.consumed_samples:,} samples): "
            f"validation loss {evaluation.loss:.4f}, {verdict} the target {self.settings.target}; "
            f"{evaluation.samples:,} sequences in {evaluation.seconds:.1f} s",
            stands_out=True,
        )

    def checkpoint_saved(self, saved: Saved) -> None:
        waited = ""
        if saved.blocked is not None and saved.blocked < saved.seconds:
            waited = f", for {saved.blocked:.1f} s of which training waited"
        what = f"{size(saved.bytes)} in {saved.seconds:.1f} s{waited}"
        self._line(f"saved after step {saved.step:,}: {saved.path}, {what}")
        for line in saved.stay:
            self._line(line)

    def run_stopped(self, outcome: Outcome) -> None:
        if self._live:
            self._line("")

    def _speed(self, step_seconds: float) -> tuple[str, str, str]:
        """Return tokens/s, FLOP/s per device, and MFU; the last is empty if no peak is known."""
        tokens_per_second = self.settings.gbs * self.settings.seq_length / step_seconds
        flops = self._flops / step_seconds / self._devices
        utilisation = f"MFU {flops / self.gpu.bf16_flops:.1%}" if self.gpu else ""
        return f"{tokens_per_second:,.0f} tokens/s", f"{scaled(flops, 'FLOP/s')} each", utilisation

    def _end(self, step: Step) -> str:
        """Return the time to the reference's sample count if it is ahead, else to the last step."""
        point = rules.reference_point(self.settings.size, self.settings.gbs)
        steps = -(-(point.mean - step.consumed_samples) // self.settings.gbs) if point else 0
        if point and 0 < steps < self.last_step - step.step:
            return f"the reference's {point.mean:,} samples in {self._eta(step.step, steps)}"
        return f"ends within {self._eta(step.step, self.last_step - step.step)}"

    def _eta(self, step: int, steps: int) -> str:
        """Return the time for `steps` steps after `step`, including evaluations between them, as h:mm:ss."""
        evaluations = (step + steps - 1) // self._interval - step // self._interval if steps else 0
        return duration(steps * (self._step_seconds or 0) + evaluations * self._evaluation_seconds)

    def _line(self, text: str, *, stands_out: bool = False) -> None:
        if self._live and stands_out and not os.environ.get("NO_COLOR"):
            text = f"{BOLD}{text}{PLAIN}"
        print(f"{CLEAR}{text}" if self._live else text, file=self.out, flush=True)
