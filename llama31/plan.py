"""The plan of a run in a person's words: what `--dryrun` prints, and what is shown before every run."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llama31 import checks, paths, rules
from llama31.corpus.token_file import bin_path
from llama31.departures import departures
from llama31.inputs import Data
from llama31.layout import Layout
from llama31.resolve import Resolved
from llama31.settings import Settings, to_dict
from llama31.sizes import SIZES


@dataclass(frozen=True)
class Plan:
    """All that is known about a run before it starts."""

    resolved: Resolved
    data: Data
    command: Sequence[str]
    """What is executed; in it, RUN_DIR stands for the run directory that a run makes."""

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
            "Data": self._data(),
            "Closed division": self._division(),
            "Command": [shlex.join(self.command)],
        }
        return "\n".join(f"{title}\n" + "".join(f"  {line}\n" for line in lines) for title, lines in sections.items())

    def summary(self) -> str:
        """The plan in a few lines, for the start of a run."""
        lines = [*self._model(), *self._layout(), *self._schedule(), *self._division()]
        return "".join(f"  {line}\n" for line in lines)

    def _settings(self) -> Iterator[str]:
        for name, value in to_dict(self.settings).items():
            shown = "" if value is None else int(value) if isinstance(value, bool) else value
            yield f"{name.upper() + '=' + str(shown):<48} {self.resolved.origins[name]}".rstrip()

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

    def _layout(self) -> Iterator[str]:
        settings, layout = self.settings, Layout.of(self.settings)
        yield (
            f"{layout.world_size} ranks = {settings.nnodes} nodes x {settings.gpus_per_node}: "
            f"tensor {settings.tensor_parallel_size} x pipeline {settings.pipeline_parallel_size} x "
            f"context {settings.context_parallel_size} x data {layout.data_parallel_size}"
        )
        yield (
            f"global batch {settings.gbs} sequences = micro batch {settings.mbs} x data parallel "
            f"{layout.data_parallel_size} x {layout.accumulation_steps} accumulation steps; "
            f"{settings.gbs * settings.seq_length:,} tokens a step"
        )

    def _schedule(self) -> Iterator[str]:
        settings, layout = self.settings, Layout.of(self.settings)
        yield (
            f"learning rate: linear to {settings.max_lr:g} at step {settings.warmup:,} "
            f"({settings.warmup * settings.gbs:,} sequences), then a cosine to {settings.end_lr:g} "
            f"at step {settings.max_steps:,}"
        )
        from_start = f" from sequence {settings.start_eval_at:,} on" if settings.start_eval_at else ""
        yield (
            f"evaluation: every {layout.eval_interval:,} steps ({layout.eval_interval * settings.gbs:,} sequences)"
            f"{from_start}, on {settings.eval_samples:,} sequences; ends at validation loss {settings.target:g}"
        )
        available = self.data.available_samples(settings.seq_length)
        last = min(settings.stop_at_step or settings.max_steps, settings.max_steps, available // settings.gbs)
        yield f"ends without the target after {last:,} steps ({last * settings.gbs:,} of {available:,} sequences)"
        point = rules.REFERENCE_POINTS.get(settings.gbs)
        if point and settings.size == rules.SIZE:
            yield f"the reference needs {point.mean:,} sequences on average at this batch size"

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
