"""The benchmark's schedule on top of Lightning's loop: when to evaluate, on what, and when to stop."""

import math
import time
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from megatron.core import parallel_state
from torch.distributed import ProcessGroup, ReduceOp

from llama31 import rules
from llama31.common.errors import RunAborted
from llama31.model.device import peak_memory
from llama31.run_dir import events, startup_log
from llama31.run_dir.events import Evaluation, Observer, Outcome, Saved
from llama31.run_dir.start_point import Start
from llama31.settings import Settings
from llama31.training.checkpoint_saver import Saver
from llama31.training.pending_steps import PendingSteps

WARM_STEPS = 3  # steps that may take longer than STEP_TIME_ATOL: compilation, first allocations


class BenchmarkCallback(Callback):
    """Evaluate, stop and save a run by the benchmark's rules, and notify observers of each event.

    Evaluates on exactly EVAL_SAMPLES sequences every CEIL(EVAL_EVERY / GBS) steps, from START_EVAL_AT on. Ends the run
    at the first validation loss that reaches TARGET, else at STOP_AT_STEP, at the end of the schedule or of the data;
    and if a loss is not finite or a step takes longer than STEP_TIME_ATOL. Losses are read and steps are reported every
    LOG_INTERVAL steps, and before an evaluation, a checkpoint and the end. A checkpoint is saved after a step
    and after the evaluation of that step, so that a resumed job never has one to catch up on. Only rank 0 has
    observers; the saver is None without SAVE_CKPT.
    """

    def __init__(
        self,
        settings: Settings,
        observers: list[Observer],
        available_samples: int,
        start: Start,
        saver: Saver | None = None,
    ):
        self.settings = settings
        self.observers = observers
        self.interval = rules.steps_between_evaluations(settings.eval_every, settings.gbs)
        self.last_step, self.last_reason = start.last_step(settings, available_samples)
        self.start = start
        self.saver = saver
        self.step = start.step
        self.outcome: Outcome | None = None
        self._learning_rate = math.nan
        self._clock = math.nan
        self._steps_timed = 0
        self._steps_pending = 0
        self._pending = PendingSteps(settings.log_interval)
        self._has_batch = False
        self._loss_sum = 0.0
        self._samples = 0
        self._token_hash = 0

    @property
    def consumed_samples(self) -> int:
        """Training sequences since the start of training."""
        return self.start.samples_after(self.step, self.settings.gbs)

    # Training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and set the last step: only now, after NeMo copied max_steps to the learning-rate schedule.

        `trainer.should_stop` cannot end a run at a step: Lightning would evaluate again.
        """
        assert trainer.global_step == self.step, f"step {trainer.global_step} of the checkpoint, {self.step} expected"
        trainer.fit_loop.epoch_loop.max_steps = self.last_step
        self._evaluation_batches = trainer.limit_val_batches
        self._allow_evaluation(trainer)
        if self.saver:
            self.saver.listen()
        startup_log.reached(startup_log.READY)
        for observer in self.observers:
            observer.run_started(self.consumed_samples)
        self._clock = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record the learning rate of the step: Lightning advances it before on_train_batch_end."""
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report steps every LOG_INTERVAL. Only rank 0 does, since it has the loss of all ranks."""
        self.step = trainer.global_step
        self._allow_evaluation(trainer)
        if not self._steps_timed and not self._steps_pending:
            startup_log.reached(startup_log.STEPPED)
        self._steps_pending += 1
        if trainer.is_global_zero:
            self._pending.add(self.step, self.consumed_samples, outputs["loss"], self._learning_rate)
        if self.step % self.settings.log_interval == 0 or trainer.limit_val_batches:
            self._report_steps()
        if not trainer.limit_val_batches:
            self._save_if_due(trainer)

    def _report_steps(self) -> None:
        """Read the losses of the steps since this was called last, on rank 0, and report them."""
        if not self._steps_pending:
            return
        losses = self._pending.read_losses()
        now = time.perf_counter()
        seconds, self._clock = (now - self._clock) / self._steps_pending, now
        are_warm = self._steps_timed >= WARM_STEPS
        self._steps_timed += self._steps_pending
        self._steps_pending = 0
        steps = self._pending.clear(losses, seconds)
        for step in steps:
            for observer in self.observers:
                observer.step_ended(step)
        late = f", read after step {self.step} (LOG_INTERVAL={self.settings.log_interval})"
        for step in steps:
            if not math.isfinite(step.loss):
                where = f"step {step.step}{late if step.step < self.step else ''}"
                self._abort(f"the training loss is {step.loss} at {where}; a lower MAX_LR may help")
        limit = self.settings.step_time_atol
        if steps and limit and are_warm and seconds * 1000 > limit:
            which = f"step {self.step} took {seconds * 1000:.0f} ms"
            if len(steps) > 1:
                which = f"steps {steps[0].step} to {self.step} took {seconds * 1000:.0f} ms each on average"
            self._abort(f"{which}; STEP_TIME_ATOL={limit} tolerates {limit}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the outcome after a normal end: at the target, or at the last step without it."""
        self._report_steps()
        if self.outcome is None:
            reason = f"the validation loss did not reach TARGET={self.settings.target} in {self.last_reason}"
            self.outcome = Outcome(events.ABORTED, reason, events.TARGET_NOT_REACHED, self.step, self.consumed_samples)
        self.outcome = replace(self.outcome, memory=_memory())

    # Evaluation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an evaluation."""
        self._loss_sum, self._samples, self._token_hash = 0.0, 0, 0
        self._batch = 0
        for observer in self.observers:
            observer.evaluation_started(self.step, self.consumed_samples)
        self._clock = time.perf_counter()

    def on_megatron_microbatch_start(self, batch: dict[str, Any], **_: Any) -> None:
        """Count and hash the sequences of an evaluation; training batches have no fingerprints."""
        if not self._has_batch:
            self._has_batch = True
            startup_log.reached(startup_log.BATCH)
        for value in batch.get("fingerprint", ()):
            self._token_hash += int(value)
            self._samples += int(value) != 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: torch.Tensor,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the mean loss of a global batch, weighted by the sequences in it that belong to the evaluation."""
        counted = min(self.settings.gbs, self.settings.eval_samples - self._batch * self.settings.gbs)
        self._loss_sum += float(outputs) * counted
        self._batch += 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish an evaluation, with the same result on every rank, so that all of them stop or none does."""
        loss = _reduced(self._loss_sum, torch.float64, parallel_state.get_pipeline_model_parallel_group())
        samples = int(_reduced(self._samples, torch.int64, parallel_state.get_data_parallel_group()))
        signed = (self._token_hash + 2**63) % 2**64 - 2**63  # modulo 2^64, to fit in int64
        token_hash = int(_reduced(signed, torch.int64, parallel_state.get_data_parallel_group()))
        loss /= self.settings.eval_samples
        assert samples == self.settings.eval_samples, f"evaluated {samples} sequences"
        reached = loss <= self.settings.target
        now = time.perf_counter()
        evaluation = Evaluation(
            step=self.step,
            consumed_samples=self.consumed_samples,
            loss=loss,
            samples=samples,
            token_hash=f"{token_hash % 2**64:016x}",
            seconds=now - self._clock,
            reached_target=reached,
            memory=_memory(),
        )
        self._clock = now
        for observer in self.observers:
            observer.evaluation_ended(evaluation)
        if not math.isfinite(loss):
            self._abort(f"the validation loss is {loss} at step {self.step}; a lower MAX_LR may help")
        if reached:
            reason = f"validation loss {loss:.4f} reached TARGET={self.settings.target}"
            self.outcome = Outcome(events.SUCCESS, reason, 0, self.step, self.consumed_samples)
            trainer.should_stop = True  # this step's evaluation is over, so Lightning starts no other
            # The run ends here, not when its last checkpoint has been saved.
            for observer in self.observers:
                observer.run_stopped(self.outcome)
            self.observers.clear()
        self._save_if_due(trainer)

    # Ends

    def _save_if_due(self, trainer: Trainer) -> None:
        """Save a checkpoint if one is due, and end the job if that was requested."""
        if self.saver is None:
            return
        is_last = self.outcome is not None or self.step >= self.last_step
        is_due = self.saver.is_due(self.step, is_last=is_last)
        self._report_saved(self.saver.completed(wait=is_due))
        if is_due:
            self._report_steps()  # for the metrics in the checkpoint
            self._report_saved(self.saver.save(trainer, self.step, self.consumed_samples, self.outcome))
            if is_last or self.saver.is_ending:
                self._report_saved(self.saver.completed(wait=True))
            self._clock = time.perf_counter()
        if self.saver.is_ending and not is_last:
            reason = f"asked to end at step {self.step}; the checkpoint of this step is saved"
            self.outcome = Outcome(events.ABORTED, reason, events.INTERRUPTED, self.step, self.consumed_samples)
            trainer.should_stop = True

    def _report_saved(self, saved: Saved | None) -> None:
        if saved:
            for observer in self.observers:
                observer.checkpoint_saved(saved)

    def _allow_evaluation(self, trainer: Trainer) -> None:
        """Enable Lightning's evaluation only at steps that are due, by a number of batches above 0.

        Otherwise Lightning would also evaluate at the end of the training data.
        """
        due = self.step % self.interval == 0 and self.consumed_samples >= self.settings.start_eval_at
        trainer.limit_val_batches = self._evaluation_batches if due else 0

    def _abort(self, reason: str) -> None:
        raise RunAborted(reason, events.TARGET_NOT_REACHED)


def _memory() -> int:
    """Return the peak memory of any rank so far, bytes."""
    return int(_reduced(peak_memory(), torch.int64, op=ReduceOp.MAX))


def _reduced(value: float, dtype: torch.dtype, group: ProcessGroup | None = None, op: ReduceOp = ReduceOp.SUM) -> float:
    """Return `value` reduced by `op` over the ranks of a group; default: all ranks."""
    result = torch.tensor(value, dtype=dtype, device=torch.cuda.current_device())
    torch.distributed.all_reduce(result, op, group)
    return result.item()
