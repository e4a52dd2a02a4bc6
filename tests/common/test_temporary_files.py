"""A process that ends by os._exit, as ranks do, removes its temporary directories before."""

import os
import subprocess
import sys
from pathlib import Path

from runs import REPOSITORY

PROGRAM = """
import multiprocessing.util, os, tempfile
from llama31.common import temporary_files
kept = tempfile.TemporaryDirectory()
multiprocessing.util.get_temp_dir()
assert len(os.listdir(os.environ["TMPDIR"])) == 2
temporary_files.remove()
os._exit(0)
"""


def test_temporary_directories_are_removed(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
