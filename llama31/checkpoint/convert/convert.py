"""The verb `convert`: look at the source, write the destination under another name, compare both, give it its name."""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama31.checkpoint import locate
from llama31.checkpoint.formats import hugging_face, nemo
from llama31.checkpoint.formats.hugging_face import HuggingFaceCheckpoint
from llama31.checkpoint.formats.nemo import NemoCheckpoint
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, failures_named, nearest_existing, publish, sync_tree
from llama31.common.json_files import load_json, write_json
from llama31.common.locks import only_run_in
from llama31.common.progress import Progress
from llama31.common.units import size

if TYPE_CHECKING:
    from llama31.checkpoint.convert.logits_parity import Difference

Format = Literal["nemo", "hf"]
RECORD = "conversion.json"  # in the destination: what it was made from, and how well it fits


def convert(source_dir: Path, destination: Path, target: Format) -> int:
    """Converts a checkpoint; prints how well both agree, and returns the exit code: 1 if they do not.

    The work goes on in DESTINATION.partial, which a run after an interruption takes up again. Raises UserError, before
    anything heavy is imported, where the source is no whole Llama or the destination cannot be.
    """
    source, destination = _look(source_dir, target), destination.absolute()
    partial = destination.with_name(destination.name + PARTIAL)
    _prepare(source, destination, partial)
    total = source.bytes()
    with only_run_in(partial):
        description = _describe(source, target)
        resumed = _begin(partial, description)
        what = f"{len(source.architecture.shapes())} tensors, {size(total)}"
        print(f"{source_dir}: {what}; {'going on' if resumed else 'converting'}", file=sys.stderr)
        with Progress("convert, compare", 3 * total) as progress, _quiet():  # written once, read by each of two models
            difference = _work(source, partial, progress)
        print(
            f"logits of {difference.tokens} tokens, fp32: largest difference {difference.maximum:.2g}, "
            f"mean {difference.mean:.2g}"
        )
        if not difference.passes:
            print(f"the same model has less than {difference.limit:g}; the result stays in {partial}", file=sys.stderr)
            return 1
        _finish(partial, destination, {**description, "logits": vars(difference)})
    print(f"{destination}: complete")
    return 0


def _look(path: Path, target: Format) -> HuggingFaceCheckpoint | NemoCheckpoint:
    if not path.is_dir():
        raise UserError(f"{path}: no such directory; --source is the directory of a checkpoint")
    if wrong := locate.mistaken(path, _is_hugging_face if target == "nemo" else locate.is_checkpoint):
        raise UserError(f"{path}: {wrong}")
    if target == "nemo":
        if (path / nemo.WEIGHTS).is_dir() and not (path / hugging_face.CONFIG).exists():
            raise UserError(f"{path}: is a NeMo checkpoint already; --to hf makes one for Hugging Face of it")
        return hugging_face.look(path)
    if (path / hugging_face.CONFIG).exists() and not (path / nemo.WEIGHTS).exists():
        raise UserError(
            f"{path}: is a Hugging Face checkpoint already; without --to hf a NeMo checkpoint is made of it"
        )
    return nemo.look(path)


def _is_hugging_face(path: Path) -> bool:
    return (path / hugging_face.CONFIG).is_file()


def _prepare(source: HuggingFaceCheckpoint | NemoCheckpoint, destination: Path, partial: Path) -> None:
    """Makes the directory to work in. Raises UserError where the destination is there, or does not fit."""
    if os.path.lexists(destination):
        raise UserError(f"{destination}: exists; name a --destination that does not, or remove it")
    if outer := locate.around(locate.real(destination)):
        raise UserError(f"{destination}: is inside the checkpoint {outer}; name a --destination outside of it")
    with failures_named(partial):
        there = 0
        if partial.exists():
            if not (partial / RECORD).is_file() and any(partial.iterdir()):
                raise UserError(f"{partial}: is in the way, and was not made by a conversion; remove it")
            there = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
        free, missing = shutil.disk_usage(nearest_existing(partial)).free, source.bytes() - there
        if free < missing:
            raise UserError(f"{destination}: needs {size(missing)} more, and {size(free)} are free on its disk")
        partial.mkdir(parents=True, exist_ok=True)


def _describe(source: HuggingFaceCheckpoint | NemoCheckpoint, target: Format) -> dict[str, Any]:
    """What is converted: another source, or a changed one, is another conversion."""
    files = {file.name: file.stat() for file in source.files()}
    return {
        "to": target,
        "source": str(source.path.absolute()),
        "files": {name: [status.st_size, status.st_mtime_ns] for name, status in files.items()},
    }


def _begin(partial: Path, description: dict[str, Any]) -> bool:
    """Whether the directory holds the beginning of this conversion; of another one it is emptied."""
    record = partial / RECORD
    if record.is_file():
        begun = load_json(record)
        if {name: begun.get(name) for name in description} == description:
            return True
    with failures_named(partial):
        for path in partial.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(record, description)
    return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what NeMo prints when it is imported, and its warnings, from the console."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield


def _work(source: HuggingFaceCheckpoint | NemoCheckpoint, partial: Path, progress: Progress) -> "Difference":
    """Writes the destination, looks at it as at any checkpoint, and compares it with its source."""
    from llama31.checkpoint.convert import logits_parity, to_hugging_face, to_nemo
    from llama31.model.cpu_backend import one_rank

    with one_rank():
        if isinstance(source, HuggingFaceCheckpoint):
            to_nemo.write(source, partial, progress.add)
            return logits_parity.compare(source, nemo.look(partial), progress.add)
        to_hugging_face.write(source, partial, progress.add)
        return logits_parity.compare(hugging_face.look(partial), source, progress.add)


def _finish(partial: Path, destination: Path, record: dict[str, Any]) -> None:
    """Gives the destination its name, once all of it is on the disk."""
    shutil.rmtree(partial / nemo.NOTES, ignore_errors=True)
    write_json(partial / RECORD, record)
    with failures_named(destination):
        sync_tree(partial)
        publish(partial, destination)
