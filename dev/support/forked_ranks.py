"""Ranks that start at once: forked from one process that has imported NeMo, which takes each fresh process 10 s.

For tests and tools of what ranks compute. torchrun is real, except for the line that starts a process, and the ranks
run the same scripts in the same environment. Tests of how ranks start, fail and are ended use run_llama31.sh as it is.

    forked_ranks.py serve SOCKET [MODULE ...]      imports torch and modules, forks torchruns until its input ends
    forked_ranks.py torchrun SOCKET ARGUMENTS      in the place of python -m torch.distributed.run ARGUMENTS
    forked_ranks.py run SOCKET SCRIPT ARGUMENTS    llama31 run ARGUMENTS with that torchrun, and ranks that run SCRIPT
"""

import atexit
import importlib
import json
import multiprocessing
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]  # not from a module: it also runs as a script
OUTPUTS = (1, 2)
LARGEST_REQUEST = 1 << 20  # bytes
READY = b"ready\n"
SOCKET = "socket"


@cache
def server() -> str:
    """Return the socket of a server that ends with this process."""
    directory = Path(tempfile.mkdtemp(prefix="ranks-"))
    process = started(directory, os.environ)
    atexit.register(shutil.rmtree, directory)
    atexit.register(process.communicate)
    return str(directory / SOCKET)


def started(directory: Path, environment: Mapping[str, str], modules: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
    """Start a server that ends when its standard input does; its socket is DIRECTORY/SOCKET."""
    log = directory / "log"
    without_gpu = {"CUDA_VISIBLE_DEVICES": ""}  # as ranks.environment has it
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__, "serve", directory / SOCKET, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**environment, **without_gpu, "PYTHONPATH": str(REPOSITORY)},
        )
    assert process.stdout and READY in iter(process.stdout.readline, b""), f"ranks cannot be forked:\n{log.read_text()}"
    return process


def instead_of_torchrun(command: list[str], address: str) -> list[str]:
    """A command of `local.command`, with ranks that the server forks."""
    python, *torchrun = command
    assert torchrun[:2] == ["-m", "torch.distributed.run"], command
    return [python, __file__, "torchrun", address, *torchrun[2:]]


def serve(address: str, modules: Sequence[str] = ()) -> None:
    """Fork a torchrun for each request; ranks find these modules imported."""
    import torch.distributed.run  # noqa: F401

    import pretrain_llama31  # noqa: F401

    for module in modules:
        importlib.import_module(module)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # avoids zombies: this process does not wait
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, READY)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                answer(connection)
            connection.close()


def answer(connection: socket.socket) -> NoReturn:
    """Be the torchrun of one request: its arguments, directory, environment and outputs."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    content, outputs, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, len(OUTPUTS))
    request = json.loads(content)
    for output, ours in zip(outputs, OUTPUTS, strict=True):
        os.dup2(output, ours)
        os.close(output)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    connection.send(bytes([torchrun(request["arguments"])]))
    os._exit(0)


def torchrun(arguments: list[str]) -> int:
    """torchrun's own main, but its processes are forked; gives the exit code."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler import SubprocessHandler

    SubprocessHandler._popen = lambda _, command, environment: Forked(command, environment)
    try:
        run.main(arguments)
    except ChildFailedError as error:  # the interpreter would print it and leave with 1
        print(error, file=sys.stderr)
        return 1
    return 0


class Forked:
    """A fork of this process that runs a Python script, with as much of subprocess.Popen as torchrun uses."""

    def __init__(self, command: tuple[str, ...], environment: dict[str, str]):
        script = command[command.index("-u") + 1 :]
        self.process = multiprocessing.get_context("fork").Process(target=run_script, args=(script, environment))
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float) -> None:
        """Wait for its end, at most `timeout` seconds."""
        self.process.join(timeout)


def run_script(script: tuple[str, ...], environment: dict[str, str]) -> None:
    """Be the process of a rank."""
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    os.setsid()
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # of which torchrun has handlers
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    # What libraries read from the environment where they are imported.
    rank_zero_only.rank = int(environment["RANK"])
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = list(script)
    sys.path[0] = str(Path(script[0]).parent)
    runpy.run_path(script[0], run_name="__main__")


def ask(address: str, arguments: list[str]) -> int:
    """Has the server run torchrun with our environment, directory and outputs; gives the exit code."""
    request = {"arguments": arguments, "directory": str(Path.cwd()), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(request).encode()], OUTPUTS)
        code = connection.recv(1)
    return code[0] if code else 1  # nothing where the server or the torchrun ended


def run(address: str, script: str, arguments: list[str]) -> None:
    """What run_llama31.sh runs, with forked ranks that run a script."""
    from llama31.cli import main as cli
    from llama31.launch import local

    stock, product = local.command, str(REPOSITORY / "pretrain_llama31.py")
    local.command = lambda *of: instead_of_torchrun(
        [script if word == product else word for word in stock(*of)], address
    )
    sys.argv = ["llama31", "run", *arguments]
    cli.main()


if __name__ == "__main__":
    role, socket_file, *rest = sys.argv[1:]
    if role == "serve":
        serve(socket_file, rest)
    elif role == "torchrun":
        sys.exit(ask(socket_file, rest))
    else:
        run(socket_file, rest[0], rest[1:])
