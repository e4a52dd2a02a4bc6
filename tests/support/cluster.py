"""A real Slurm of two nodes for tests; conftest.py's `cluster` starts one."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import debian
import lacking
import pytest

from dev.support import slurm_cluster
from dev.support.slurm_cluster import DEADLINE, RELEASE, REPOSITORY

__all__ = ["DEADLINE", "REPOSITORY", "Cluster"]


class Cluster(slurm_cluster.Cluster):
    """A Slurm of two nodes that a test can start, or skip if that is not possible here."""

    @classmethod
    @contextmanager
    def started(cls, files: Mapping[str, str] = MappingProxyType({})) -> Iterator["Cluster"]:
        """A cluster of its own, started (3 s), and stopped and removed at the end.

        `files` are texts for its directory, such as more.conf with further settings; DIRECTORY in them is its name.
        """
        if os.geteuid():
            lacking.skip("slurmd needs root")
        if not RELEASE:
            debian.need("slurmctld", "slurm-wlm", "munge")
        directory = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: it holds a socket
        cluster = cls(directory)
        try:
            for name, text in files.items():
                (directory / name).write_text(text.replace("DIRECTORY", str(directory)))
            cluster.control("start")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PATH", str(cluster.bin), prepend=os.pathsep)
                yield cluster
        finally:
            cluster.control("stop")
            shutil.rmtree(directory)
