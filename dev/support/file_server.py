"""An HTTP server of files on loopback, as MLCommons' storage is one, with everything that can go wrong."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from urllib.parse import unquote, urlsplit

DEADLINE = 60  # seconds
CHUNK_BYTES = 8 << 10
LOGIN = "https://mlcommons.cloudflareaccess.com/cdn-cgi/access/login/site?kid=0"


@dataclass
class Request:
    """What a client asked for."""

    path: str
    headers: Mapping[str, str]


@dataclass
class FileServer:
    """A running server; its attributes may be changed at any time."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    """Path, without the first slash -> content."""
    sent: dict[str, bytes] = field(default_factory=dict)
    """Path -> content sent instead of the file, with the right file's headers."""
    answers: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    """Path, or "" for any -> statuses and headers that are answered first, instead of the file."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the connection of a longer answer is cut."""
    hold_at: int | None = None
    """Bytes served in all at which every answer waits until this is None or the server ends."""
    has_ranges: bool = True
    has_tags: bool = True
    shift: int = 0
    """Bytes by which a part starts too late."""
    private: str = ""
    """Token that is needed for everything; the account is ("id", "secret")."""
    requests: list[Request] = field(default_factory=list)
    served: int = 0
    """Bytes of files that were sent."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: bool = False

    def publish(self, name: str, files: Mapping[str, bytes], base: str = "", directory: str = "data") -> str:
        """Serve a set of files; returns the URL of its .uri file. `base`: where its files are said to be."""
        self.files |= {f"{directory}/{path}": content for path, content in files.items()}
        listed = "".join(f"{hashlib.md5(content).hexdigest()}  {path}\n" for path, content in files.items())
        self.files[f"metadata/{name}.uri"] = f"{base or self.url}/{directory}\n".encode()
        self.files[f"metadata/{name}.md5"] = listed.encode()
        return f"{self.url}/metadata/{name}.uri"

    def forget(self) -> None:
        """Count from zero."""
        self.served = 0
        self.requests.clear()


class Handler(BaseHTTPRequestHandler):
    """Serves a FileServer's files."""

    protocol_version = "HTTP/1.1"
    state: FileServer

    def do_GET(self) -> None:
        state, path = self.state, unquote(urlsplit(self.path).path).lstrip("/")
        with state.lock:
            state.requests.append(Request(path, dict(self.headers.items())))
            scripted = state.answers.get(path) or state.answers.get("")
            answer = scripted.pop(0) if scripted else None
        cookie = {}
        if state.private and not answer:
            account = (self.headers.get("CF-Access-Client-Id"), self.headers.get("CF-Access-Client-Secret"))
            if account == ("id", "secret"):
                cookie = {"Set-Cookie": f"CF_Authorization={state.private}; Path=/; Secure; HttpOnly"}
            elif self.headers.get("cf-access-token") != state.private:
                answer = 302, {"Location": LOGIN}
        if not answer and path not in state.files:
            answer = 404, {}
        if answer:
            self._head(answer[0], {"Content-Length": "0", **answer[1]})
        else:
            self._file(path, cookie)

    def do_CONNECT(self) -> None:
        """Refuse, like a proxy that forwards no requests."""
        self.state.requests.append(Request(self.path, dict(self.headers.items())))
        self._head(403, {"Content-Length": "0"})

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _file(self, path: str, headers: dict[str, str]) -> None:
        content = self.state.files[path]
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        if self.state.has_tags:
            headers |= {"ETag": tag, "Last-Modified": "Sun, 29 Nov 2026 00:00:00 GMT"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        status, body = 200, self.state.sent.get(path, content)
        if asked and self.state.has_ranges and self.headers.get("If-Range", tag) == tag:
            start, end = int(asked[1]) + self.state.shift * (asked[0] != "bytes=0-0"), min(int(asked[2]) + 1, len(body))
            status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{len(content)}"
            if int(asked[1]) >= len(content):
                status, headers["Content-Range"], end = 416, f"bytes */{len(content)}", start
            body = body[start:end]
        self._head(status, {**headers, "Content-Length": str(len(body))})
        self._send(body)

    def _send(self, body: bytes) -> None:
        state, cut = self.state, len(body)
        with state.lock:
            if state.cuts and len(body) > state.cuts[0]:
                cut = state.cuts.pop(0)
        for start in range(0, cut, CHUNK_BYTES):
            wait_while(lambda: state.hold_at is not None and state.served >= state.hold_at and not state.ended)
            data = body[start : min(start + CHUNK_BYTES, cut)]
            with state.lock:
                state.served += len(data)
            try:
                self.wfile.write(data)
            except OSError:
                break
        self.close_connection = self.close_connection or cut < len(body)

    def log_message(self, *_: object) -> None:
        """Write no log."""


def wait_while(condition: Callable[[], object]) -> None:
    """Wait for a state of the server, or of what it serves."""
    ended = threading.Event()
    for _ in range(DEADLINE * 200):
        if not condition():
            return
        ended.wait(0.005)
    raise TimeoutError(f"waited for {DEADLINE} s")


class QuietServer(ThreadingHTTPServer):
    """Ignores clients that have disconnected."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Write nothing."""


@contextmanager
def running(context: SSLContext | None = None, port: int = 0) -> Iterator[FileServer]:
    """A server while the block runs; with TLS if a context is given; at a free port unless one is given."""

    class Own(Handler):
        """A class of its own, for its state."""

    with QuietServer(("127.0.0.1", port), Own) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        Own.state = FileServer(f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield Own.state
        finally:
            Own.state.ended = True
            server.shutdown()
