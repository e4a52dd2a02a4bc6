#!/usr/bin/env bash
# One would guess that tqdm shows its bar whenever standard error is a terminal, with a default width if the terminal
# does not know its own. On a terminal of 0 rows and 0 columns, which is what pty.spawn, script(1) in CI and some
# containers and ssh wrappers give, it writes nothing at all, although isatty() is true: no bar, no count, no rate.
set -euo pipefail

directory="$(mktemp -d)"
trap 'rm -rf "$directory"' EXIT

python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" install -q --disable-pip-version-check tqdm==4.70.1

cat >"$directory/bar.py" <<'PYTHON'
import sys

from tqdm import tqdm

assert sys.stderr.isatty()
for _ in tqdm(range(3), mininterval=0):
    pass
PYTHON

cat >"$directory/terminal.py" <<'PYTHON'
import fcntl
import os
import pty
import struct
import sys
import termios

process, terminal = pty.fork()
if process == 0:
    fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", int(sys.argv[1]), int(sys.argv[2]), 0, 0))
    os.execv(sys.argv[3], sys.argv[3:])
written = b""
try:
    while data := os.read(terminal, 65536):
        written += data
except OSError:  # the other end is closed
    pass
assert os.waitpid(process, 0)[1] == 0, written
print("a bar" if b"3/3" in written else f"{len(written.strip())} bytes")
PYTHON

python="$directory/venv/bin/python"
unset COLUMNS LINES
sized="$("$python" "$directory/terminal.py" 24 80 "$python" "$directory/bar.py")"
none="$("$python" "$directory/terminal.py" 0 0 "$python" "$directory/bar.py")"
echo "24 x 80: $sized; 0 x 0: $none"
if [[ $sized != "a bar" || $none != "0 bytes" ]]; then
    echo "this has changed: expected a bar on 24 x 80, and nothing on 0 x 0" >&2
    exit 1
fi
# seen 2026-11-29: tqdm 4.70.1, "24 x 80: a bar; 0 x 0: 0 bytes"
