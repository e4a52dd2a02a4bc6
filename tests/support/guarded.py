"""What a reader of files must not do, under dev.fuzz.guard: guarded.py SANDBOX DEED. Prints the findings."""

import json
import socket
import subprocess
import sys
from pathlib import Path

from dev.fuzz.guard import Guard, use_sandbox


def executes() -> None:
    Path("own.py").write_text("x = 1\n")
    sys.path.insert(0, str(Path.cwd()))
    import own  # type: ignore[import-not-found]

    assert own.x


def starts() -> None:
    subprocess.run(["true"], check=True)


def connects() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def writes() -> None:
    Path("../../outside").write_text("x")


def renames() -> None:
    Path("file").touch()
    Path("file").rename("../../outside")


def remembers() -> None:
    assert b"\1" * (3 << 29)


def computes() -> None:
    while True:
        pass


def nothing() -> None:
    Path("file").write_text("x")
    Path("file").rename("other")
    compile("1 + 1", "<string>", "eval")


if __name__ == "__main__":
    use_sandbox(Path(sys.argv[1]))
    guard = Guard(Path(sys.argv[1]))
    ended = ""
    with guard.watching() as found:
        try:
            globals()[sys.argv[2]]()
        except BaseException as error:  # noqa: BLE001 - Hang derives from BaseException
            ended = type(error).__name__
    print(json.dumps([ended, found]))
