"""What of the file system a container must show for a run: the directories that its settings name, and those of the
files that links in them lead to.

Each is mounted under its own path, so that a setting means the same inside and outside. Docker, Apptainer and pyxis
differ in how they are told; what they are told is decided here.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from llama31.config import paths
from llama31.settings import Settings

READ = {"preprocessed_path": "*", "tokenizer_path": "*", "model_ckpt": "**/*"}
"""Settings that name what is read, with a pattern for the files that a run may open there."""
WRITTEN = ("job_dir", "tmp_npy_index", "continual_ckpt")


def directories(settings: Settings) -> list[Path]:
    """All directories that a run reads and writes, absolute; those that lie within another of them are left out."""
    return outermost([*read(settings), *linked(settings), *written(settings)])


def read(settings: Settings) -> list[Path]:
    """Those that must be there before a run, as far as they are set."""
    return [absolute(value) for name in READ if (value := getattr(settings, name))]


def linked(settings: Settings) -> Iterator[Path]:
    """Where the links among the files lead that are read, as in Hugging Face's cache, as far as this machine sees."""
    for name, pattern in READ.items():
        for file in absolute(value).glob(pattern) if (value := getattr(settings, name)) else ():
            while os.path.islink(file) and os.path.exists(file):  # noqa: PTH110, PTH114 - unlike Path's, never raise
                file = absolute(file.parent / file.readlink())
                yield file if os.path.isdir(file) else file.parent  # noqa: PTH112


def written(settings: Settings) -> list[Path]:
    """Those that a run makes if they are not there. To mount them, they must be made before."""
    return [absolute(value) for name in WRITTEN if (value := getattr(settings, name))] + [
        absolute(paths.index_root(settings))
    ]


def absolute(path: str | Path) -> Path:
    """A path as it is named within the container too, where what leads up to a `..` is not there."""
    named = Path(path).absolute()
    return named.resolve() if ".." in named.parts else named


def outermost(directories: Iterable[Path]) -> list[Path]:
    """Without those that mounting another one shows already, sorted.

    A link out of a mounted directory is not shown by mounting that: what it leads to stays in the list.
    """
    found: list[Path] = []
    for directory in sorted(set(directories)):
        if not any(_shows(outer, directory) for outer in found):
            found.append(directory)
    return found


def _shows(outer: Path, directory: Path) -> bool:
    return directory.is_relative_to(outer) and directory.resolve() == outer.resolve() / directory.relative_to(outer)
