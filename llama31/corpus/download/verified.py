"""DIR/.downloaded.json: which files had the published MD5, and what they were then, so that none is read twice."""

from contextlib import suppress
from pathlib import Path
from threading import Lock

from llama31.common.errors import UserError
from llama31.common.json_files import load_object, write_json
from llama31.corpus.download.remote import CHECKED, RemoteFile


class VerifiedFiles:
    """The checked files of a directory. Used by several threads."""

    def __init__(self, directory: Path):
        """Read the record; a damaged one is as none."""
        self._directory = directory
        self._lock = Lock()
        self._changed = False
        self._found: dict[str, object] = {}
        with suppress(UserError):
            self._found = load_object(directory / CHECKED)

    def holds(self, file: RemoteFile) -> bool:
        """Whether the file had this MD5, and was not touched since."""
        return bool(file.md5) and file.path in self._found and self._found[file.path] == self._state(file)

    def remember(self, file: RemoteFile) -> None:
        """Note that the file has its MD5 now."""
        with self._lock:
            self._found[file.path] = self._state(file)
            self._changed = True

    def save(self) -> None:
        """Write the record, if it changed. Raises UserError."""
        if self._changed:
            write_json(self._directory / CHECKED, self._found)

    def _state(self, file: RemoteFile) -> list[object] | None:
        try:
            status = (self._directory / file.path).stat()
        except OSError:
            return None
        # A program can set the time of modification back, but not that of the last change of the inode.
        return [file.md5, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
