"""A secret that only the tasks of one Slurm step know, by which they recognize each other.

A step that srun started by hand has no common parent of ours. So the secret is LLAMA31_TOKEN of the environment, which
srun passes on; otherwise a file that the first task writes, readable only by its user, where all nodes write anyway.
"""

import os
import secrets
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from llama31.common.files import nearest_existing
from llama31.doctor import limits

VARIABLE = "LLAMA31_TOKEN"
APPEARS = 3.0  # seconds that a file server may take to show a file of another node
LONGEST = 4096  # bytes read of a file
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # never wait for another user's pipe


class StepToken:
    """The secret of a step, empty if there is none; `directory` is one that all nodes should see."""

    def __init__(self, directory: Path, step: str, environment: Mapping[str, str] = os.environ):
        self.exported = environment.get(VARIABLE, "")
        self._directory = directory
        self._name = f".llama31-doctor-{step}-token"

    def create(self) -> str:
        """Return the secret, in the first task before others can connect to it. Empty if it cannot be shared."""
        if self.exported:
            return self.exported
        with suppress(OSError, limits.TookTooLong):
            return limits.within(APPEARS, self._write)
        return ""

    def find(self) -> str:
        """Return the secret, in another task once it is connected: a file sought too early may stay unseen longer."""
        if self.exported:
            return self.exported
        end = time.monotonic() + APPEARS
        while (left := end - time.monotonic()) > 0:
            with suppress(OSError, ValueError, limits.TookTooLong):
                return limits.within(left, self._read)
            time.sleep(0.1)
        return ""

    def remove(self) -> None:
        """Remove the file."""
        if not self.exported:
            with suppress(OSError, limits.TookTooLong):
                limits.within(APPEARS, self._file().unlink)

    def _file(self) -> Path:
        return nearest_existing(self._directory) / self._name

    def _write(self) -> str:
        file, token = self._file(), secrets.token_hex(32)
        file.unlink(missing_ok=True)  # of a killed doctor; of another user's, this fails
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
        with open(descriptor, "w", encoding="ascii") as opened:
            opened.write(token)
        return token

    def _read(self) -> str:
        """Raises ValueError if other users can access the file, or it is still empty."""
        with open(os.open(self._file(), os.O_RDONLY | _FLAGS), encoding="ascii") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise ValueError("another user can read or write it")
            if not (token := opened.read(LONGEST)):
                raise ValueError("empty")
        return token
