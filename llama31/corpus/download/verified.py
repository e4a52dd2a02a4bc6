"""DIR/.downloaded.json: the files with a verified MD5, their sizes, inodes and times, so that none is hashed twice."""

from contextlib import suppress
from pathlib import Path
from threading import Lock

from llama31.common.errors import UserError
from llama31.common.json_files import load_object, write_json
from llama31.corpus.download.remote import CHECKED, RemoteFile


class VerifiedFiles:
    """The verified files of a directory. Thread-safe."""

    def __init__(self, directory: Path):
        """Read the record; an invalid one counts as empty."""
        self._directory = directory
        self._lock = Lock()
        self._changed = False
        self._found: dict[str, object] = {}
        with suppress(UserError):
            self._found = load_object(directory / CHECKED)

    def is_verified(self, file: RemoteFile) -> bool:
        """Return whether the file had this MD5 and was not modified since."""
        return bool(file.md5) and file.path in self._found and self._found[file.path] == self._state(file)

    def add(self, file: RemoteFile) -> None:
        """Record that the file has its MD5."""
        with self._lock:
            self._found[file.path] = self._state(file)
            self._changed = True

    def save(self) -> None:
        """Write the record if it changed. Raises UserError if that fails."""
        if self._changed:
            write_json(self._directory / CHECKED, self._found)

    def _state(self, file: RemoteFile) -> list[object] | None:
        try:
            status = (self._directory / file.path).stat()
        except OSError:
            return None
        # A program can reset the modification time, but not the time of the inode's last change.
        return [file.md5, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
