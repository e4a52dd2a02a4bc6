"""The plan of a run as text: all of it for `--dryrun`, a summary before every run."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from llama31 import rules
from llama31.checkpoint import disk_space
from llama31.common.units import scaled, size
from llama31.config import cuda_graphs, devices, low_precision, mlperf_names, overlap, paths, recompute
from llama31.config.departures import departures
from llama31.config.model_sizes import SIZES
from llama31.config.parallel_layout import Layout
from llama31.config.problem import assignment
from llama31.config.resolve import Resolved
from llama31.data import inputs, node_copy, run_tokenizer, tokenizer
from llama31.data.inputs import Data
from llama31.data.token_file import bin_path
from llama31.estimates import disk, host_memory, memory, speed
from llama31.estimates.gpus import GB, GPUS
from llama31.run_dir.start_point import Start
from llama31.settings import Device, Profiler, RecomputeGranularity, Settings, shown, to_dict

NOT_VALIDATED = "not validated here; a run validates the data before it starts"


@dataclass(frozen=True)
class Plan:
    """Everything known about a run before it starts."""

    resolved: Resolved
    data: Data | None
    """The run's data; None if only the machines of its jobs have it."""
    command: Sequence[str]
    """Command that the run executes, with RUN_DIR in place of the run directory."""
    start: Start = field(default_factory=Start)
    """Where training starts."""

    @property
    def settings(self) -> Settings:
        """Settings of the run."""
        return self.resolved.settings

    def with_settings(self, **values: Any) -> "Plan":
        """Return this plan with other values of some settings."""
        return replace(self, resolved=self.resolved.with_settings(**values))

    @property
    def vocab_size(self) -> int | None:
        """Number of the tokenizer's ids, None if unknown."""
        return inputs.vocab_size(self.settings, self.data)

    def text(self) -> str:
        """Return the whole plan."""
        sections = {
            "Settings": self._settings(),
            "Model": self._model(),
            "Layout and batches": self._layout(),
            "Learning rate and evaluation": self._schedule(),
            "Memory, disk and time": self._estimates(),
            "Checkpoints": self._checkpoints(),
            "Data": self._data(),
            "Before the ranks start": self._before(),
            "Closed division": self._division(),
            "Command": [shlex.join(user_command(self.settings)), f"which runs: {shlex.join(self.command)}"],
        }
        found = {title: [f"  {line}\n" for line in lines] for title, lines in sections.items()}
        return "\n".join(f"{title}\n" + "".join(lines) for title, lines in found.items() if lines)

    def summary(self) -> str:
        """Return the plan in a few lines, for the start of a run."""
        lines = [*self._model(), *self._layout(), *self._schedule(), *self._estimates(), *self._checkpoints()]
        lines += inputs.skipped_lines(self.settings, self.data) if self.data else ()
        lines += self._before()
        lines += self._division()
        return "".join(f"  {line}\n" for line in lines)

    def _settings(self) -> Iterator[str]:
        settings, overlapped = self.settings, overlap.planned(self.settings)
        # Values computed for empty settings, and how.
        computed = {
            "tmp_npy_index": (paths.index_root(settings), "JOB_DIR/index"),
            "min_lr": (settings.end_lr, f"{rules.END_LR_FRACTION} x MAX_LR"),
            "warmup_steps": (settings.warmup, f"{rules.WARMUP_FRACTION:.0%} of ALLOCATED_SEQUENCES / GBS"),
            "samples_available": (
                self.data.indexed_samples(settings) if self.data else settings.sample_limit,
                f"{rules.INDEXED_PER_MEAN} x the reference's mean at this GBS, or all of the data",
            ),
            "overlap_grad_reduce": (overlapped.grad_reduce, "on GPUs, if several ranks hold the same weights"),
            "overlap_param_gather": (overlapped.param_gather, "as OVERLAP_GRAD_REDUCE"),
            "tp_comm_overlap": (overlapped.tensor_parallel, "with SEQUENCE_PARALLEL, within a node"),
            "stop_at_step": ("", "none"),
            "seeds": ("", "drawn at random"),
        }
        for name, value in to_dict(settings).items():
            origin = self.resolved.origins[name]
            if name in computed and value in (None, ""):
                value, how = computed[name]
                origin = f"{origin}: {how}"
            written = shlex.quote(text) if (text := shown(value)) else ""
            yield f"{f'{name.upper()}={written}':<48} {origin}"

    def _model(self) -> Iterator[str]:
        settings, shape = self.settings, SIZES[self.settings.size]
        line = (
            f"Llama 3.1 {settings.size}: {shape.layers} layers, hidden {shape.hidden_size}, "
            f"FFN {shape.ffn_hidden_size}, {shape.attention_heads} heads, {shape.key_value_heads} key-value heads"
        )
        if vocab_size := self.vocab_size:
            line += f", vocabulary {vocab_size:,}, {shape.parameters(vocab_size):,} parameters"
        yield line
        device = devices.device(settings)
        chosen = f"{device.name} (DEVICE=auto)" if device is not settings.device else device.name
        yield f"device {chosen}, precision {low_precision.described(settings)}"
        if missing := devices.missing_gpus(settings):
            yield f"not for this machine: {missing}"

    def _layout(self) -> Iterator[str]:
        settings, layout = self.settings, Layout.of(self.settings)
        yield (
            f"world size {layout.world_size} = {settings.nnodes} x {settings.gpus_per_node} (nodes x ranks) = "
            f"tensor {settings.tensor_parallel_size} x pipeline {settings.pipeline_parallel_size} x "
            f"context {settings.context_parallel_size} x data {layout.data_parallel_size}"
        )
        if settings.virtual_pipeline_size > 1:
            yield f"interleaved pipeline: {settings.virtual_pipeline_size} model chunks per rank"
        if settings.sequence_parallel:
            yield "sequence parallel: norms are divided along the sequence among the tensor-parallel ranks"
        if overlapped := overlap.planned(settings).described():
            yield f"overlapped with arithmetic: {overlapped}"
        if graphs := cuda_graphs.described(settings):
            yield f"CUDA graphs: {graphs}; the memory that they take is not in the estimate"
        if recomputed := recompute.described(settings):
            yield f"recomputed in the backward pass: {recomputed}"
        yield (
            f"global batch {settings.gbs} sequences = micro batch {settings.mbs} x data parallel "
            f"{layout.data_parallel_size} x accumulation {layout.accumulation_steps}; "
            f"{settings.gbs * settings.seq_length:,} tokens a step"
        )

    def _schedule(self) -> Iterator[str]:
        settings, interval = self.settings, Layout.of(self.settings).eval_interval
        yield (
            f"learning rate: linear to {settings.max_lr:g} at step {settings.warmup:,} "
            f"({settings.warmup * settings.gbs:,} sequences), then a cosine to {settings.end_lr:g} "
            f"at step {settings.max_steps:,}"
        )
        yield (
            f"AdamW: weight decay {rules.WEIGHT_DECAY}, "
            f"{'of norms too, as the reference' if settings.decay_norms else 'not of norms, as published submissions'}"
        )
        first = interval * max(1, -(-settings.start_eval_at // (interval * settings.gbs)))
        yield (
            f"evaluation: every {interval:,} steps ({interval * settings.gbs:,} sequences) from step {first:,} on, "
            f"on {settings.eval_samples:,} sequences; ends at validation loss {settings.target:g}"
        )
        if self.data:
            available, indexed = self.data.available_samples(settings.seq_length), self.data.indexed_samples(settings)
            last, _ = self.start.last_step(settings, available)
            early = ", before any evaluation" if first > last else ""
            end = f"after {last:,} steps ({self.start.samples_after(last, settings.gbs):,} of {indexed:,} sequences)"
            yield f"ends without the target {end}{early}"
        if settings.hang_minutes:
            yield f"ends if a rank makes no progress for {settings.hang_minutes:g} minutes, with all stacks"
        if settings.warmup_train_steps or settings.warmup_validation_steps:
            yield (
                f"warm-up before the clock starts: {settings.warmup_train_steps} training and "
                f"{settings.warmup_validation_steps} validation steps on synthetic sequences"
            )
        if settings.log_interval > 1:
            yield (
                f"losses and times are read every {settings.log_interval:,} steps: progress, metrics and the checks "
                "of loss and step time are that late"
            )
        if settings.gc_interval:
            yield f"garbage is collected every {settings.gc_interval:,} steps, or global batches of an evaluation"
        if settings.step_time_atol:
            yield f"ends at a step that takes longer than {settings.step_time_atol:,} ms"
        if settings.profile is not Profiler.none:
            steps = f"steps {settings.profile_step_start:,} to {settings.profile_step_end:,}"
            where = f"ranks {settings.profile_ranks}, to {paths.PROFILE} in the run directory"
            yield f"traced by {settings.profile.name}: {steps} of {where}"
        if settings.memory_snapshot:
            yield f"allocations on GPUs are recorded; snapshots go to {paths.PROFILE} in the run directory"
        if point := rules.reference_point(settings.size, settings.gbs):
            yield f"the reference needs {point.mean:,} sequences on average at this batch size"

    def _estimates(self) -> Iterator[str]:
        settings, vocab_size = self.settings, self.vocab_size
        if not vocab_size:
            yield "not known without the tokenizer, which determines the size of the vocabulary"
            return
        if devices.device(settings) is not Device.cpu:
            yield from self._memory(vocab_size)
        index_bytes = disk.training_index(settings, self.data) if self.data else 0
        index = f"{size(index_bytes)} for the training index; " if index_bytes else ""
        if settings.copy_data_to and self.data:
            index += f"{size(node_copy.total_bytes(settings))} on each node for COPY_DATA_TO; "
        yield f"disk: {index}a checkpoint takes {size(disk.checkpoint(settings, vocab_size))}"
        flops = speed.flops_per_step(settings, vocab_size)
        again = speed.recomputed_per_step(settings)
        line = f"{scaled(flops, 'FLOP')} a step, {scaled(speed.flops_per_token(settings, vocab_size), 'FLOP')} a token"
        if again:
            line += f"; {scaled(again, 'FLOP')} a step are recomputed, which count neither here nor in MFU"
        if settings.gpu and settings.precision in speed.UTILISATION:
            gpu, share = GPUS[settings.gpu], speed.UTILISATION[settings.precision]
            line += f"; at {share:.0%} of {scaled(gpu.bf16_flops, 'FLOP/s')} a GPU, which is assumed: "
            line += f"{speed.seconds(flops + again, settings, gpu):.2f} s a step"
            if point := rules.reference_point(settings.size, settings.gbs):
                minutes = speed.seconds(speed.flops_to(point.mean, settings, vocab_size), settings, gpu) / 60
                time = f"{minutes / 60:.1f} h" if minutes >= 60 else f"{minutes:.1f} min"
                line += f", {time} to the reference's sample count"
        yield line

    def _memory(self, vocab_size: int) -> Iterator[str]:
        settings = self.settings
        needed = memory.per_gpu(settings, vocab_size)
        there = f" of {GPUS[settings.gpu].memory / GB:.0f}" if settings.gpu else ""
        unchecked = "" if settings.gpu else "; with GPU set, this is checked"
        yield f"memory of a GPU: about {needed.total / GB:.1f}{there} GB: {memory.describe(needed)}{unchecked}"
        for granularity in RecomputeGranularity:
            if granularity is not settings.recompute_granularity:
                other = memory.per_gpu(recompute.instead(settings, granularity), vocab_size)
                yield (
                    f"with RECOMPUTE_GRANULARITY={granularity.name}: {other.total / GB:.1f}{there} GB, "
                    f"of which activations {other.activations / GB:.1f}"
                )

    def _checkpoints(self) -> Iterator[str]:
        settings = self.settings
        is_fresh = not (settings.save_ckpt or settings.use_ckpt or settings.from_hf)
        known = self.data or is_fresh
        yield (self.start.words() if known else "resumes from the newest checkpoint of this run, if there is one")
        if not settings.save_ckpt:
            yield "no checkpoint is saved"
            return
        times = [f"{settings.save_every:,} steps"] if settings.save_every else []
        times += [f"{settings.save_every_minutes:g} minutes"] if settings.save_every_minutes else []
        every = f"every {' and every '.join(times)}, " if times else ""
        about = f": about {size(disk_space.estimate(settings, self.data))} each" if self.data else ""
        yield (
            f"saves {every}at the end of the job, on SIGTERM and on SIGUSR1, to {settings.continual_ckpt}{about}; "
            f"keeps {settings.keep_last or 'all'}"
        )
        if settings.save_async:
            ids = self.vocab_size
            needed = f", up to {size(host_memory.of_node(settings, ids))} on a node" if ids else ""
            yield f"writes them in the background, from a copy of the state in host memory{needed}"

    def _data(self) -> Iterator[str]:
        if self.settings.mock_data:
            yield "synthetic tokens (MOCK_DATA=1): PREPROCESSED_PATH and TOKENIZER_PATH are not read"
            return
        if not self.data:
            yield f"{self.settings.preprocessed_path or 'PREPROCESSED_PATH is empty'}: {NOT_VALIDATED}"
            return
        for file in (*self.data.train, self.data.validation):
            yield f"{bin_path(file.prefix)}: {file.documents:,} documents, {file.tokens:,} tokens"
        yield from inputs.skipped_lines(self.settings, self.data)
        yield f"{self.settings.tokenizer_path}: tokenizer, {self.data.vocab_size:,} ids"
        source = Path(self.settings.tokenizer_path)
        yield f"{tokenizer.TOKENIZER_FILE} defines its ids; SHA-256 of that part: {tokenizer.fingerprint(source)}"
        if left_out := run_tokenizer.ignored_entries(source):
            yield f"ignored in its configuration: {', '.join(left_out)}"
        yield f"{paths.index_root(self.settings)}: training index"

    def _before(self) -> Iterator[str]:
        """Yield what happens on each node before the ranks start."""
        settings = self.settings
        if settings.runs_per_job > 1:
            limit = f"TIME={settings.time}" if settings.time else "the partition's time limit"
            yield f"a job has {settings.runs_per_job} runs, one after the other; {limit} is for all of them"
        if settings.copy_data_to:
            yield f"each node copies the token files to COPY_DATA_TO={settings.copy_data_to}, and reads them there"
        if settings.clear_caches:
            how = settings.clear_caches_command or "drop_caches, through sudo -n unless root"
            yield f"each node's caches are cleared by: {how}"
        if settings.numa_binding:
            yield "each rank is bound to the cores of its GPU's NUMA node"

    def _division(self) -> Iterator[str]:
        now = departures(self.settings, self.data.validation.tokens if self.data else None)
        found = dict.fromkeys([*self.start.departures, *now])
        if found:
            yield "outside the closed division's rules, and logged as open:"
            yield from (f"- {line}" for line in found)
            return
        yield "within the closed division's rules"
        yield from mlperf_names.notes(self.settings)


def user_command(settings: Settings, environment: Mapping[str, str] | None = None) -> list[str]:
    """Return the command that a user types for this run if only the settings in `environment` are exported."""
    given = [
        assignment(field.name, value)
        for field in fields(Settings)
        if (value := getattr(settings, field.name)) != field.default or (environment or {}).get(field.name.upper())
    ]
    if paths.is_checkout():
        return ["bash", str(paths.REPOSITORY / "run_llama31.sh"), *given]
    return [sys.executable, "-m", "llama31", "run", *given]
