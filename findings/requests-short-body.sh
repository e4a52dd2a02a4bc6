#!/usr/bin/env bash
# One would guess that requests raises when a server closes the connection before Content-Length bytes have come, and
# that this depends on the version of requests. It depends on that of urllib3: with 1.26, which some packages still pin,
# iter_content and .content end as if the body were whole; with 2.x the same version of requests raises.
set -euo pipefail

directory="$(mktemp -d)"
trap 'rm -rf "$directory"' EXIT

cat >"$directory/short.py" <<'PYTHON'
import socket
import threading

import requests

listener = socket.create_server(("127.0.0.1", 0))


def serve() -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(400))


threading.Thread(target=serve, daemon=True).start()
session = requests.Session()
session.trust_env = False
try:
    with session.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", stream=True, timeout=30) as response:
        print(sum(map(len, response.iter_content(64))), "bytes, no exception")
except requests.exceptions.ChunkedEncodingError:
    print("ChunkedEncodingError")
PYTHON

seen() { # URLLIB3: what happens with this version
    python3 -m venv "$directory/$1"
    "$directory/$1/bin/pip" install -q --disable-pip-version-check requests==2.34.2 "urllib3==$1"
    "$directory/$1/bin/python" "$directory/short.py"
}

old="$(seen 1.26.20)"
new="$(seen 2.6.3)"
echo "urllib3 1.26.20: $old; urllib3 2.6.3: $new"
if [[ $old != "400 bytes, no exception" || $new != ChunkedEncodingError ]]; then
    echo "this has changed: expected '400 bytes, no exception' and 'ChunkedEncodingError'" >&2
    exit 1
fi
# seen 2026-11-29: requests 2.34.2 with urllib3 1.26.20, "400 bytes, no exception"; with urllib3 2.6.3, "ChunkedEncodingError"
