"""Control a headless Chromium without a network by its DevTools protocol over a pipe; Debian's package: `chromium`."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = "chromium"
OPTIONS = (
    "--headless",
    "--no-sandbox",  # there is none for root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
ERRORS = {"Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"}


class Page:
    """A tab."""

    def __init__(self, commands: int, answers: int):
        self._commands = commands
        self._answers = os.fdopen(answers, "rb", buffering=0)
        self._pending = b""
        self._number = 0
        self._session: str | None = None
        self.errors: list[str] = []
        """Errors of the page, including console errors and warnings."""
        self.requests: list[str] = []
        """URLs that the page requested."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; record the events that arrive before it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def open(self, file: Path, *, width: int, height: int, dark: bool = False) -> None:
        """Open a file in a window of this size in pixels, and wait until it is drawn."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.evaluate(
            "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"
            ".then(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))))"
        )

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; of a promise, the value that it resolves to."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def screenshot(self, *, whole: bool = False) -> bytes:
        """Return a PNG of the window, or of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            data = self._answers.read(1 << 16)
            if not data:
                raise RuntimeError("Chromium exited")
            self._pending += data
        message, _, self._pending = self._pending.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        method, said = event.get("method", ""), event.get("params", {})
        if method in ERRORS or (method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning")):
            self.errors.append(json.dumps(said)[:500])
        if method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"][:200])


@contextmanager
def browser() -> Iterator[Page]:
    """Start a Chromium, yield a tab of it, and end it with the context."""
    program = shutil.which(PROGRAM)
    if not program:
        raise FileNotFoundError(f"{PROGRAM} is not installed (Debian: apt-get install {PROGRAM})")
    to_read, commands = os.pipe()
    answers, to_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        # The protocol uses file descriptors 3 and 4.
        script = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        os.close(to_read)
        os.close(to_write)
        try:
            yield Page(commands, answers)
        finally:
            os.close(commands)  # Chromium ends with it
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
