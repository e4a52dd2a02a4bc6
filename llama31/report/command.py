"""`python3 -m llama31 report`: write a page on run directories and logs."""

from collections.abc import Sequence
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import atomic_writer, failures_named, is_writable_directory, nearest_existing, real_path
from llama31.estimates.gpus import GPUS, key_of
from llama31.report import find_logs


def report(given: Sequence[Path], output: Path, devices: int | None, gpu: str) -> None:
    """Write the report on these runs to `output`. Raises UserError if something cannot be read or written."""
    known = key_of(gpu)
    if gpu and not known:
        raise UserError(f"--gpu {gpu}: not one of {', '.join(GPUS)}")
    with failures_named(output):
        if output.is_dir():
            raise UserError(f"-o {output}: is a directory; name a file in it, such as {output / 'report.html'}")
        if output.exists() and not output.is_file():  # /dev/null, say, which the page would replace
            raise UserError(f"-o {output}: not a regular file; name another")
        page_file = real_path(output)  # so that a link is kept
        parent = nearest_existing(page_file.parent)  # missing ones are created
    if not is_writable_directory(parent):
        raise UserError(f"-o {output}: {parent} is not a writable directory")
    logs = find_logs.find(given)
    if page_file in {real_path(log) for log in logs}:
        raise UserError(f"-o {output}: is one of the logs to read; name another file")

    from llama31.report import runs
    from llama31.report.figures import Figures
    from llama31.report.page import render

    found = runs.read(logs)
    page = render([Figures(run, devices, known or "") for run in found])
    with atomic_writer(page_file) as file:
        file.write(page.encode(errors="replace"))  # JSON can hold half a surrogate pair
    for run in found:
        for line in run.damages:
            print(f"{run.path.parent}: {line}")
    print(f"report: {output}")
