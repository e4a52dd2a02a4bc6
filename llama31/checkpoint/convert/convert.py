"""Convert a checkpoint: check the source, write the result, compare both, rename the result to the destination."""

import io
import os
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from llama31.checkpoint import locate
from llama31.checkpoint.convert import logits_parity
from llama31.checkpoint.convert.logits_parity import Difference
from llama31.checkpoint.convert.source_logits import SourceLogits
from llama31.checkpoint.formats import hugging_face, nemo
from llama31.checkpoint.formats.hugging_face import HuggingFaceCheckpoint
from llama31.checkpoint.formats.nemo import NemoCheckpoint
from llama31.common import training_packages
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, failures_named, free_bytes, publish, sync_tree
from llama31.common.heap import keep_freed_memory
from llama31.common.json_files import load_object, write_json
from llama31.common.locks import only_run_in
from llama31.common.progress import Progress
from llama31.common.units import size

Format = Literal["nemo", "hf"]
RECORD = "conversion.json"  # in the destination: the source, and how close the logits are


def convert(source_dir: Path, destination: Path, target: Format) -> int:
    """Convert a checkpoint. Print how close both are and return the exit code: 1 if they are not the same model.

    Writes to DESTINATION.partial, which the next run resumes after an interruption. Raises UserError, before anything
    heavy is imported, if the source is not a complete Llama or the destination cannot be written.
    """
    source, destination = _inspect(source_dir, target), destination.absolute()
    partial = destination.with_name(destination.name + PARTIAL)
    _prepare(source, destination, partial)
    total = source.bytes()
    with only_run_in(partial):
        description = _describe(source, target)
        resumed = _start_or_resume(partial, description)
        contents = f"{len(source.architecture.shapes())} tensors, {size(total)}"
        print(f"{source_dir}: {contents}; {'resuming' if resumed else 'converting'}", file=sys.stderr)
        keep_freed_memory()
        sink = io.StringIO()  # for what NeMo prints when it is imported, and its warnings
        work = 3 * total  # written once, read by two models
        with (
            SourceLogits(source) as expected,
            Progress("convert, compare", work) as progress,
            redirect_stdout(sink),
            redirect_stderr(sink),
        ):
            difference = _write_and_compare(source, partial, expected, progress)
        print(
            f"logits of {difference.tokens} tokens, fp32: largest difference {difference.maximum:.2g}, "
            f"mean {difference.mean:.2g}"
        )
        if not difference.passes:
            stays = f"the limit is {difference.limit:g}; the result stays in {partial}"
            print(f"not the same model: {stays}", file=sys.stderr)
            return 1
        _finish(partial, destination, {**description, "logits": vars(difference)})
    print(f"{destination}: complete")
    return 0


def _inspect(path: Path, target: Format) -> HuggingFaceCheckpoint | NemoCheckpoint:
    """Return the source, checked. Raises UserError if it is not a complete checkpoint in the other format."""
    if not path.is_dir():
        raise UserError(f"{path}: no such directory; --source is the directory of a checkpoint")

    def is_hugging_face(path: Path) -> bool:
        return (path / hugging_face.CONFIG).is_file()

    if problem := locate.not_a_checkpoint(path, is_hugging_face if target == "nemo" else locate.is_checkpoint):
        raise UserError(f"{path}: {problem}")
    if target == "nemo":
        if (path / nemo.WEIGHTS).is_dir() and not (path / hugging_face.CONFIG).exists():
            raise UserError(f"{path}: is a NeMo checkpoint already; --to hf converts it to Hugging Face")
        return hugging_face.inspect(path)
    if (path / hugging_face.CONFIG).exists() and not (path / nemo.WEIGHTS).exists():
        raise UserError(f"{path}: is a Hugging Face checkpoint already; omit --to hf to convert it to NeMo")
    return nemo.inspect(path)


def _prepare(source: HuggingFaceCheckpoint | NemoCheckpoint, destination: Path, partial: Path) -> None:
    """Create the working directory. Raises UserError if the destination exists or does not fit on its disk."""
    if os.path.lexists(destination):
        raise UserError(f"{destination}: exists; remove it or choose another --destination")
    if outer := locate.enclosing_checkpoint(locate.resolve(destination)):
        raise UserError(f"{destination}: is inside the checkpoint {outer}; choose a --destination outside of it")
    with failures_named(partial):
        written = 0
        if partial.exists():
            if not (partial / RECORD).is_file() and {path.name for path in partial.iterdir()} - {RECORD + PARTIAL}:
                raise UserError(f"{partial}: exists, but not from a conversion; remove it")
            written = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
        free, missing = free_bytes(partial), source.bytes() - written
        if free < missing:
            raise UserError(f"{destination}: needs {size(missing)} more, and {size(free)} are free on its disk")
        training_packages.require("convert")
        partial.mkdir(parents=True, exist_ok=True)


def _describe(source: HuggingFaceCheckpoint | NemoCheckpoint, target: Format) -> dict[str, Any]:
    """Return what identifies a conversion: target format, source path, and sizes and times of its files."""
    files = {file.name: file.stat() for file in source.files()}
    return {
        "to": target,
        "source": str(source.path.absolute()),
        "files": {name: [status.st_size, status.st_mtime_ns] for name, status in files.items()},
    }


def _start_or_resume(partial: Path, description: dict[str, Any]) -> bool:
    """Return whether the working directory holds an interrupted run of this conversion; if not, empty it."""
    record = partial / RECORD
    if record.is_file():
        recorded = load_object(record)
        if {name: recorded.get(name) for name in description} == description:
            return True
    with failures_named(partial):
        for path in partial.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(record, description)
    return False


def _write_and_compare(
    source: HuggingFaceCheckpoint | NemoCheckpoint, partial: Path, expected: SourceLogits, progress: Progress
) -> Difference:
    """Write the result, check it like any checkpoint, and compare its logits with the source's."""

    def add(count: int) -> None:
        progress.add(count + expected.newly_read())

    if isinstance(source, HuggingFaceCheckpoint):
        from llama31.checkpoint.convert import logits_of_megatron, to_nemo
        from llama31.model.cpu_backend import one_rank

        with one_rank():
            to_nemo.write(source, partial, add)
            logits = logits_of_megatron.logits(replace(nemo.inspect(partial), from_disk=True), add)
    else:
        from llama31.checkpoint.convert import logits_of_transformers, to_hugging_face

        to_hugging_face.write(source, partial, add)
        logits = logits_of_transformers.logits(replace(hugging_face.inspect(partial), from_disk=True), add)
    while not expected.wait():
        add(0)
    return logits_parity.difference(logits, expected.result())


def _finish(partial: Path, destination: Path, record: dict[str, Any]) -> None:
    """Sync the result to disk and rename it to `destination`."""
    write_json(partial / RECORD, record)
    with failures_named(destination):
        if (notes := partial / nemo.NOTES).exists():
            shutil.rmtree(notes)
        sync_tree(partial)
        publish(partial, destination)
