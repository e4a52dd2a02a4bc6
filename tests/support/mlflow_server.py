"""MLflow's own server on loopback, with a database of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

PATIENCE = 120  # seconds; a start takes 10 on a quiet machine
POLLS_PER_SECOND = 5


@contextmanager
def mlflow_server(directory: Path) -> Iterator[str]:
    """Start the server with its files in a directory; yield its address, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address, log = f"http://127.0.0.1:{port}", directory / "server.log"
    command = [
        sys.executable, "-m", "mlflow", "server", f"--backend-store-uri=sqlite:///{directory}/mlflow.db",
        f"--default-artifact-root={directory}/artifacts", "--host=127.0.0.1", f"--port={port}", "--workers=1",
    ]  # fmt: skip
    env = {**os.environ, "TMPDIR": str(directory)}  # it leaves lock files
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, cwd=directory, env=env)
    try:
        _wait_for(address, server, log)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            urlopen(f"{address}/health", timeout=PATIENCE).close()
            return
        except (URLError, ConnectionError):
            time.sleep(1 / POLLS_PER_SECOND)
    raise AssertionError(f"MLflow's server does not answer; its log:\n{log.read_text()[-2000:]}")
