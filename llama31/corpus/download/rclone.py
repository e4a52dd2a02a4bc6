"""A directory of an S3 bucket as a `remote.Remote`, read by the rclone program."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping

from llama31.common.errors import UserError
from llama31.corpus.download.remote import Interrupted, RemoteFile, Version, validated

REMOTE = "mlc-training"  # the rclone remote's name in MLCommons' instructions
VARIABLES = {
    "MLC_ENDPOINT": "ENDPOINT",
    "MLC_ACCESS_KEY_ID": "ACCESS_KEY_ID",
    "MLC_SECRET_ACCESS_KEY": "SECRET_ACCESS_KEY",
}
"""Environment variable -> option of rclone's S3 remote."""
ACCESS = (
    "MLCommons gives endpoint and keys to its members; without any variable MLC_*, the same files come from its public "
    "storage, without keys and without rclone"
)
RAW_PATH = "mlcommons-training-wg-public/common/datasets/c4/original/en_json/3.0.1"
READ_BYTES = 1 << 20


class RemoteDirectory:
    """A directory of the bucket, with the access configured in the environment."""

    def __init__(self, path: str, what: str, environment: Mapping[str, str] = os.environ):
        """`path`: bucket/directory of the set `what`. Raises UserError if rclone or the access is missing."""
        path = path or (RAW_PATH if what == "raw" else "")
        if not path:
            raise UserError(f"MLC_PATH: set it to the path of the {what} data, bucket/directory; {ACCESS}")
        if not shutil.which("rclone"):
            raise UserError(
                "rclone is not installed; Debian: apt-get install rclone; others: https://rclone.org/install"
            )
        self._environment = dict(environment)
        # rclone's AWS library does not start with this variable set; rclone has its own option for it.
        if bundle := self._environment.pop("AWS_CA_BUNDLE", ""):
            self._environment.setdefault("RCLONE_CA_CERT", bundle)
        self._directory = f"{self._remote()}:{path.strip('/')}"
        self._versions: dict[str, Version] = {}

    def _remote(self) -> str:
        """Return the name of the rclone remote: configured by the variables, else the user's own."""
        values = {name: self._environment.get(name, "") for name in VARIABLES}
        missing = [name for name, value in values.items() if not value]
        if not missing:
            # Unlike the command line, the environment is not visible to other users.
            options = {option: values[name] for name, option in VARIABLES.items()}
            for option, value in {"TYPE": "s3", "PROVIDER": "Cloudflare", **options}.items():
                self._environment[f"RCLONE_CONFIG_LLAMA31_{option}"] = value
            return "llama31"
        if len(missing) < len(VARIABLES):
            raise UserError(f"{' and '.join(missing)}: not set, but others of {', '.join(VARIABLES)} are")
        listed = subprocess.run(["rclone", "listremotes"], env=self._environment, capture_output=True, check=False)
        if f"{REMOTE}:" in listed.stdout.decode().split():
            return REMOTE
        raise UserError(
            f"no access to the bucket: set {', '.join(VARIABLES)}, or configure the rclone remote {REMOTE}; {ACCESS}"
        )

    def files(self) -> list[RemoteFile]:
        """Return all files, also of subdirectories. Raises UserError, one line, if there are none or rclone fails."""
        command = ["rclone", "lsjson", "--quiet", "--recursive", "--files-only", "--hash", "--retries=1"]
        done = subprocess.run(
            [*command, self._directory], env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UserError(f"{self._directory}: {_reason(done.stderr)}; {ACCESS}")
        entries = json.loads(done.stdout)
        if not entries:
            raise UserError(f"{self._directory}: no files; {ACCESS}")
        self._versions = {entry["Path"]: Version(entry["Size"]) for entry in entries}
        listed = (RemoteFile(entry["Path"], entry.get("Hashes", {}).get("md5", "")) for entry in entries)
        return validated(self._directory, listed)

    def version(self, file: RemoteFile) -> Version:
        """Return the version from the listing."""
        return self._versions[file.path]

    def read(self, file: RemoteFile, _: Version, offset: int, count: int) -> Iterator[bytes]:
        """Yield `count` bytes of a file from `offset` on. Raises Interrupted if it receives fewer."""
        command = ["rclone", "cat", "--quiet", "--retries=1", f"--offset={offset}", f"--count={count}"]
        with subprocess.Popen(
            [*command, f"{self._directory}/{file.path}"],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout and process.stderr
            try:
                while data := process.stdout.read(READ_BYTES):
                    count -= len(data)
                    yield data
                errors = process.stderr.read().decode(errors="replace")
            finally:
                process.kill()  # the caller may stop reading early
        if count:
            raise Interrupted(f"{self._directory}/{file.path}: {_reason(errors)}")


def _reason(errors: str) -> str:
    """Return the last error line of rclone's log, without its timestamp and the details below it."""
    lines = [line for line in errors.splitlines() if line[:1].isdigit()]
    return lines[-1].split(" ", 2)[2].strip() if lines else "the connection ended early"
