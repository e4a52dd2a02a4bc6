"""Train one rank of a run: settings -> recipe -> training -> outcome."""

import contextlib
import errno
import gc
import os
import shutil
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from llama31.checkpoint import identity, store
from llama31.common.errors import RunAborted, UserError
from llama31.common.late_uses import is_executed
from llama31.config import paths
from llama31.config.departures import departures
from llama31.config.parallel_layout import Layout
from llama31.data import run_tokenizer
from llama31.data.inputs import Data
from llama31.model import numa
from llama31.plan import rank_checks
from llama31.run_dir import cache_log, hang, job_chain, record, start_point, startup_log, time_limit_warning
from llama31.run_dir.events import ABORTED, BAD_INPUT, FAILED, INTERRUPTED, Observer, Outcome
from llama31.settings import CudaGraphs, Settings

if TYPE_CHECKING:
    from llama31.mlperf.log.writer import MLPerfLog
    from llama31.training.checkpoint_saver import Saver


def train(run_dir: Path) -> tuple[Outcome, bool]:
    """Train the run in `run_dir`; every rank calls this, with torchrun's environment variables. Raises nothing.

    Returns the outcome, and whether this rank finished together with all others, so that none of them is left waiting.
    The first rank to fail stores the outcome for all.
    """
    rank = int(os.environ.get("RANK", "0"))
    run = _Run(run_dir, rank, _redirect_output(run_dir, rank))
    startup_log.reached(startup_log.RANK)
    # A checkpoint may come from anywhere: torch reads data from it, never code (`safe_unpickle`).
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    signal.signal(signal.SIGINT, run.interrupt)
    signal.signal(signal.SIGUSR1, run.warn)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})  # launch.slurm.rank blocks it until now
    if rank == 0:  # the others have no files to close
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        time_limit_warning.watch(run_dir)  # the others learn of it by the vote after each step
    try:
        outcome = run.fit()
        orderly = True
        _ignore_signals()
    except BaseException as error:  # noqa: BLE001 - any exception becomes the outcome, and is printed
        _ignore_signals()
        run.cancel_save()
        outcome = run.failure(error)
        orderly = False
        trace = "".join(traceback.format_exception(error))
    if run.watch:
        run.watch.stop()
    with contextlib.suppress(OSError):  # a full disk: space is reserved for the outcome, not for the traceback
        outcome = record.store_outcome(run_dir, outcome)
    if not orderly:
        with contextlib.suppress(OSError):
            print(trace, file=sys.stderr, flush=True)
    run.stop(outcome)
    return outcome, orderly


def _ignore_signals() -> None:
    """Ignore further signals, so that this rank can still write its outcome; torchrun sends SIGTERM if one fails."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)


def _redirect_output(run_dir: Path, rank: int) -> TextIO:
    """Redirect this rank's output to its log file. Return the former standard output, for progress only."""
    console = os.fdopen(os.dup(1), "w", encoding="utf-8")
    logs = run_dir / paths.RANK_LOGS
    logs.mkdir(exist_ok=True)
    with (logs / f"rank-{rank}.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    return console


class _Run:
    """One rank of a run, and its records."""

    def __init__(self, run_dir: Path, rank: int, console: TextIO):
        self.run_dir = run_dir
        self.rank = rank
        self.console = console
        self.observers: list[Observer] = []
        self.start = start_point.Start()
        self.lock: TextIO | None = None  # of the run's checkpoints, held until the process ends
        self.saves = True  # until the settings are known
        self.callback: Any = None  # a BenchmarkCallback, whose module imports torch
        self.watch: hang.Watch | None = None  # with HANG_MINUTES
        self.log: MLPerfLog | None = None  # on rank 0, unless a resumed run's log describes the run already
        self.interrupted = False
        self.warned = False

    @property
    def name(self) -> str:
        """Name of the run, which all jobs of its chain share."""
        return self.start.run or job_chain.run_dir_of(self.run_dir).name

    def warn(self, *_: Any) -> None:
        """Record the warning of the time limit (SIGUSR1), until the saver has its own handler."""
        self.warned = True
        if not self.saves:
            self.interrupt()

    def interrupt(self, *_: Any) -> None:
        """Record that the user interrupted the run, which is the reason for any exception that follows."""
        self.interrupted = True
        raise KeyboardInterrupt

    def fit(self) -> Outcome:
        """Train to the end. Return the outcome. The MLPerf log begins before anything heavy is imported."""
        settings = record.load_settings(self.run_dir)
        if settings.numa_binding:
            print(f"rank {self.rank}: {numa.bind(int(os.environ.get('LOCAL_RANK', '0')))}", flush=True)
        self.saves = settings.save_ckpt
        if settings.hang_minutes:
            self.watch = hang.Watch(self.run_dir, settings.hang_minutes, close=self.stop, step=self.progress)
        self.start = start_point.load(self.run_dir / paths.START)
        data = rank_checks.check(self.run_dir, settings)
        departed = list(dict.fromkeys([*self.start.departures, *departures(settings, data.validation.tokens)]))
        if self.rank == 0:
            self._open_log(settings, data, departed)
        startup_log.reached(startup_log.CHECKED)
        gc.disable()  # imports make a million objects, which stay

        import fiddle

        from llama31.model import device, vocabulary
        from llama31.recipe import pretrain_recipe
        from llama31.training import diagnosis
        from llama31.training.benchmark_callback import BenchmarkCallback
        from llama31.training.lowest_precision import lowest_precision
        from llama31.training.progress_callback import ReportProgress
        from llama31.training.rank_times import RankTimer
        from llama31.training.strategy import load

        startup_log.reached(startup_log.IMPORTED)
        backend = device.detect(settings)
        with contextlib.ExitStack() as stack:
            if backend.accelerator == "cpu":
                from llama31.model.cpu_backend import cpu_backend

                stack.enter_context(cpu_backend())
            directory = run_tokenizer.ensure(settings, self.run_dir)
            source = directory if settings.mock_data else Path(settings.tokenizer_path)
            used = replace(settings, tokenizer_path=str(directory))
            recipe = pretrain_recipe(used, backend, int(settings.seeds), self.run_dir, self.name, self.start)
            recipe.model.tokenizer = recipe.data.tokenizer = vocabulary.load(directory, source)
            pretrain = fiddle.build(recipe)
            available = data.available_samples(settings.seq_length)
            saver = self._saver(settings, data, departed) if settings.save_ckpt else None
            self.callback = BenchmarkCallback(settings, self.observers, available, self.start, saver)
            if self.rank == 0:
                self._open_records(settings, data, self.callback.last_step)
            trainer = pretrain.keywords["trainer"]
            if self.log:
                self.log.describe_precision(lowest_precision(trainer.strategy, trainer.precision_plugin))
            trainer.callbacks += [vocabulary.CheckRows(settings, data.vocab_size)]
            if self.watch:
                self.watch.progress("the imports")
                trainer.callbacks += [ReportProgress(self.watch)]
            # A graph of the whole iteration contains the reduction of gradients, so no rank can be timed before it.
            if Layout.of(settings).world_size > 1 and settings.cuda_graphs is not CudaGraphs.full_iteration:
                trainer.callbacks += [RankTimer(settings.log_interval, self.observers)]
            trainer.callbacks += [self.callback, *diagnosis.callbacks(settings, self.run_dir, self.rank)]
            load(trainer, self.start)
            gc.freeze()  # collections during training need not look at these objects
            gc.enable()
            pretrain()
        return self.callback.outcome

    def failure(self, error: BaseException) -> Outcome:
        """Return the outcome for an exception."""
        step, samples = self.progress()

        def aborted(reason: str, exit_code: int) -> Outcome:
            return Outcome(ABORTED, reason, exit_code, step, samples)

        if self.interrupted:
            why = ", for time ran out (SIGUSR1); with SAVE_CKPT=1 it would have saved" if self.warned else ""
            return aborted(f"interrupted at step {step}{why}", INTERRUPTED)
        while isinstance(error, KeyboardInterrupt | SystemExit) and error.__context__:
            error = error.__context__  # torchrun's SIGTERM interrupted the handling of this rank's own failure
        if isinstance(error, RunAborted):
            return aborted(str(error), error.exit_code)
        if isinstance(error, UserError):
            return aborted("; ".join(error.lines), BAD_INPUT)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return aborted(f"{error.filename or self.run_dir}: cannot be written: {error.strerror}", BAD_INPUT)
        logs = self.run_dir / paths.RANK_LOGS
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return aborted(f"ended by SIGTERM at step {step}; if another rank failed, {logs} says why", FAILED)
        first_line = str(error).partition("\n")[0]
        what = f"{type(error).__name__}: {first_line}"
        return aborted(f"rank {self.rank} failed at step {step}: {what}; see {logs}", FAILED)

    def progress(self) -> tuple[int, int]:
        """Return the last step, and the samples consumed."""
        return (self.callback.step, self.callback.consumed_samples) if self.callback else (0, 0)

    def cancel_save(self) -> None:
        """Stop what SAVE_ASYNC does in the background."""
        if self.callback and self.callback.saver:
            with contextlib.suppress(OSError):
                self.callback.saver.cancel()

    def stop(self, outcome: Outcome) -> None:
        """Close the records, also if closing one of them fails."""
        for observer in self.observers:
            with contextlib.suppress(OSError):  # a full disk, which is in the outcome
                observer.run_stopped(outcome)
        if is_executed("wandb"):
            with contextlib.suppress(Exception):  # a failure of Weights & Biases is not the run's
                sys.modules["wandb"].finish(exit_code=outcome.exit_code)
        if mlflow_run := sys.modules.get("llama31.training.mlflow_run"):
            with contextlib.suppress(Exception):
                mlflow_run.finish(outcome.exit_code)

    def _saver(self, settings: Settings, data: Data, departed: list[str]) -> "Saver":
        """Return the saver of checkpoints; rank 0 locks them, and stores the process that the launcher signals."""
        from llama31.training.checkpoint_saver import Saver

        saver = Saver(
            settings,
            job=self.start.job,
            identity=identity.identity(settings, data),
            departures=departed,
            run_dir=self.run_dir,
            run=self.name,
        )
        saver.listen()
        if self.warned:
            saver.request_end()
        if self.rank == 0:
            self.lock = store.lock(Path(settings.continual_ckpt), settings.seeds)
            record.store_saver(self.run_dir)
        return saver

    def _open_log(self, settings: Settings, data: Data, departed: list[str]) -> None:
        from llama31.mlperf.log.writer import MLPerfLog, copy_to_resume

        file = self.run_dir / paths.MLPERF_LOG
        if self.start.resumes:
            copy_to_resume(Path(self.start.checkpoint) / paths.MLPERF_LOG, file, departed)
            self.observers.append(MLPerfLog(file, resumed=True))
            return
        self.log = log = MLPerfLog(file)
        self.observers.append(log)
        log.init_started(caches_cleared=cache_log.were_cleared(self.run_dir, settings))
        log.describe(
            settings,
            seed=int(settings.seeds),
            data_parallel_size=Layout.of(settings).data_parallel_size,
            train_samples=data.available_samples(settings.seq_length),
            departures=departed,
            init_checkpoint_step=settings.start_steps,
        )

    def _open_records(self, settings: Settings, data: Data, last_step: int) -> None:
        from llama31.model import device
        from llama31.run_dir.metrics_file import MetricsWriter
        from llama31.training.console_progress import ConsoleProgress

        metrics = self.run_dir / paths.METRICS
        if self.start.resumes:
            shutil.copyfile(Path(self.start.checkpoint) / paths.METRICS, metrics)
        self.observers.append(MetricsWriter(metrics))
        self.observers.append(ConsoleProgress(settings, data.vocab_size, last_step, device.gpu(settings), self.console))
