"""The plan of a run in a person's words: what `--dryrun` prints, and what is shown before every run."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llama31 import checks, paths, rules
from llama31.corpus.token_file import bin_path
from llama31.departures import departures
from llama31.estimates import disk, memory, speed
from llama31.estimates.gpus import GB, GPUS, TERA
from llama31.inputs import Data
from llama31.layout import Layout
from llama31.resolve import Resolved
from llama31.settings import Settings, shown, to_dict
from llama31.sizes import SIZES


@dataclass(frozen=True)
class Plan:
    """All that is known about a run before it starts."""

    resolved: Resolved
    data: Data
    command: Sequence[str]
    """What a user types for this run, where no settings are in the environment."""
    ranks_command: Sequence[str]
    """What that executes; RUN_DIR stands for the run directory that a run makes."""

    @property
    def settings(self) -> Settings:
        """The settings of the run."""
        return self.resolved.settings

    def text(self) -> str:
        """The whole plan."""
        sections = {
            "Settings": self._settings(),
            "Model": self._model(),
            "Layout and batches": self._layout(),
            "Learning rate and evaluation": self._schedule(),
            "Memory, disk and time": self._estimates(),
            "Data": self._data(),
            "Closed division": self._division(),
            "Command": [shlex.join(self.command), f"which runs: {shlex.join(self.ranks_command)}"],
        }
        return "\n".join(f"{title}\n" + "".join(f"  {line}\n" for line in lines) for title, lines in sections.items())

    def summary(self) -> str:
        """The plan in a few lines, for the start of a run."""
        lines = [*self._model(), *self._layout(), *self._schedule(), *self._estimates(), *self._division()]
        return "".join(f"  {line}\n" for line in lines)

    def _settings(self) -> Iterator[str]:
        settings = self.settings
        # What an empty value comes to, and how.
        computed = {
            "tmp_npy_index": (paths.index_root(settings), "JOB_DIR/index"),
            "min_lr": (settings.end_lr, f"{rules.END_LR_FRACTION} x MAX_LR"),
            "warmup_steps": (settings.warmup, f"{rules.WARMUP_FRACTION:.0%} of ALLOCATED_SEQUENCES / GBS"),
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
        yield (
            f"Llama 3.1 {settings.size}: {shape.layers} layers, hidden {shape.hidden_size}, "
            f"FFN {shape.ffn_hidden_size}, {shape.attention_heads} heads, {shape.key_value_heads} key-value heads, "
            f"vocabulary {self.data.vocab_size:,}, {shape.parameters(self.data.vocab_size):,} parameters"
        )
        device = checks.device(settings)
        chosen = f"{device.name} (DEVICE=auto)" if device is not settings.device else device.name
        yield f"device {chosen}, precision {settings.precision.name}"
        if missing := checks.missing_gpus(settings):
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
        available = self.data.available_samples(settings.seq_length)
        last = min(settings.stop_at_step or settings.max_steps, settings.max_steps, available // settings.gbs)
        first = interval * max(1, -(-settings.start_eval_at // (interval * settings.gbs)))
        yield (
            f"evaluation: every {interval:,} steps ({interval * settings.gbs:,} sequences) from step {first:,} on, "
            f"on {settings.eval_samples:,} sequences; ends at validation loss {settings.target:g}"
        )
        early = ", before any evaluation" if first > last else ""
        end = f"after {last:,} steps ({last * settings.gbs:,} of {available:,} sequences)"
        yield f"ends without the target {end}{early}"
        if settings.step_time_atol:
            yield f"ends at a step that takes longer than {settings.step_time_atol:,} ms"
        if point := self._reference_point():
            yield f"the reference needs {point.mean:,} sequences on average at this batch size"

    def _estimates(self) -> Iterator[str]:
        settings, vocab_size = self.settings, self.data.vocab_size
        needed = memory.per_gpu(settings, vocab_size)
        there = f" of {GPUS[settings.gpu].memory / GB:.0f}" if settings.gpu else ""
        yield f"memory of a rank: about {needed.total / GB:.1f}{there} GB: {memory.described(needed)}"
        less = memory.per_gpu(settings, vocab_size, recompute=True)
        yield (
            f"with full recomputation, which this version has not: {less.total / GB:.1f}{there} GB, "
            f"of which activations {less.activations / GB:.1f}"
        )
        yield (
            f"disk: training index {disk.training_index(settings, self.data) / GB:.2f} GB; "
            f"a checkpoint to go on from takes {disk.checkpoint(settings, vocab_size) / GB:.2f} GB"
        )
        flops = speed.flops_per_step(settings, vocab_size)
        yield (
            f"{flops / TERA:,.2f} TFLOP a step, {speed.flops_per_token(settings, vocab_size) / 1e9:.2f} GFLOP a token"
        )
        if settings.gpu and settings.precision in speed.UTILISATION:
            yield from self._time(flops)

    def _time(self, flops_per_step: int) -> Iterator[str]:
        settings, gpu = self.settings, GPUS[self.settings.gpu]
        line = (
            f"at {speed.UTILISATION[settings.precision]:.0%} of {gpu.bf16_flops / TERA:,.0f} TFLOP/s a GPU, which is "
            f"assumed: {speed.seconds(flops_per_step, settings, gpu):.2f} s a step"
        )
        if point := self._reference_point():
            flops = speed.flops_to(point.mean, settings, self.data.vocab_size)
            line += f", {speed.seconds(flops, settings, gpu) / 3600:.1f} h to the reference's sample count"
        yield line

    def _reference_point(self) -> rules.ReferencePoint | None:
        """What the reference needed with this batch size; None where it says nothing of this run."""
        return rules.REFERENCE_POINTS.get(self.settings.gbs) if self.settings.size == rules.SIZE else None

    def _data(self) -> Iterator[str]:
        for file in (*self.data.train, self.data.validation):
            yield f"{bin_path(file.prefix)}: {file.documents:,} documents, {file.tokens:,} tokens"
        yield f"{self.settings.tokenizer_path}: tokenizer, {self.data.vocab_size:,} ids"
        yield f"{paths.index_root(self.settings)}: training index"

    def _division(self) -> Iterator[str]:
        found = departures(self.settings, self.data.validation.tokens)
        if not found:
            yield "within the closed division's rules"
        else:
            yield "outside the closed division's rules, and logged as open:"
            yield from (f"- {line}" for line in found)
