"""Only tasks of the same step are accepted by the doctor's first task, and nothing that they send does harm."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from llama31.config.resolve import resolve
from llama31.doctor import doctor, peer
from llama31.doctor.context import Context
from llama31.doctor.doctor import Check
from llama31.doctor.findings import from_json, ok
from llama31.doctor.group import Disconnected, Group, StepTask
from llama31.doctor.peer import Peer
from llama31.doctor.step_token import StepToken

pytestmark = pytest.mark.slow
WAIT = 20.0


def task(rank: int, port: int, size: int = 2) -> StepTask:
    return StepTask(rank, size, 0, f"n{rank + 1}", ("localhost",), "1.0", port)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def first_task(port: int, token: StepToken | None, timeout: float = WAIT, size: int = 2) -> Iterator["Future[Group]"]:
    with ThreadPoolExecutor(1) as threads:
        opened = threads.submit(Group, task(0, port, size), timeout, token)
        yield opened
        with opened.result():
            pass


def connected(port: int) -> Peer:
    end = time.monotonic() + WAIT
    while True:
        try:
            return Peer(socket.create_connection(("localhost", port), 1))
        except ConnectionRefusedError:
            assert time.monotonic() < end


def token(directory: Path, **environment: str) -> StepToken:
    return StepToken(directory, "1.0", environment)


def is_closed(connection: Peer) -> bool:
    """Whether the other side closes the connection before it sends anything else."""
    try:
        connection.receive(time.monotonic() + WAIT)
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


@pytest.mark.parametrize("environment", [{}, {"LLAMA31_TOKEN": "secret"}])
def test_tasks_with_a_secret_in_common(port: int, tmp_path: Path, environment: dict[str, str]) -> None:
    first, second = token(tmp_path, **environment), token(tmp_path, **environment)
    with first_task(port, first) as opened, Group(task(1, port), WAIT, second):
        assert opened.result().unproven == set()
    assert list(tmp_path.iterdir()) == []


def test_a_stranger_that_guesses_rank_and_step(port: int, tmp_path: Path) -> None:
    """Without the secret it is refused with a proof of its own; the task that it stood for is accepted."""
    with first_task(port, token(tmp_path)) as first:
        stranger = connected(port)
        stranger.send(["1.0", 1, "nonce"])
        _, proof = stranger.receive(time.monotonic() + WAIT)
        stranger.send(proof)  # the first task's own, reflected
        assert is_closed(stranger)
        with Group(task(1, port), WAIT, token(tmp_path)):
            assert first.result().unproven == set()


def test_a_task_with_the_secret_replaces_one_without(port: int, tmp_path: Path) -> None:
    with first_task(port, token(tmp_path), size=3) as first:
        stranger = connected(port)
        peer.introduce(stranger, "1.0", 1, "")
        with Group(task(1, port, 3), WAIT, token(tmp_path)) as second, Group(task(2, port, 3), WAIT, token(tmp_path)):
            assert first.result().unproven == set()
            assert is_closed(stranger)
            with ThreadPoolExecutor(1) as threads:
                answer = threads.submit(second.exchange, "two", WAIT)
                assert first.result()._peers[1].receive(time.monotonic() + WAIT) == "two"
                first.result()._peers[1].send("one")
                assert answer.result() == {0: "one"}


def test_tasks_that_do_not_see_the_secret_are_accepted_by_address(port: int, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with first_task(port, token(tmp_path / "one")) as first, Group(task(1, port), WAIT, token(tmp_path / "two")):
        assert first.result().unproven == {1}


def test_another_node_is_refused(port: int, tmp_path: Path) -> None:
    far = StepTask(0, 2, 0, "n1", ("192.0.2.1",), "1.0", port)  # an address of documentation
    with ThreadPoolExecutor(1) as threads:
        opened = threads.submit(Group, far, 1)
        stranger = connected(port)
        peer.introduce(stranger, "1.0", 1, "")
        assert is_closed(stranger)
        with opened.result() as first:
            assert first.exchange("one", 1) == {0: "one"}


def test_ranks_that_do_not_exist(port: int) -> None:
    with first_task(port, None) as first:
        for rank in (0, 2, -1, True, 1.0, "1", None, [1]):
            stranger = connected(port)
            stranger.send(["1.0", rank, "nonce"])
            assert is_closed(stranger)
        with Group(task(1, port), WAIT):
            assert first.result().unproven == {1}


def test_a_rank_twice(port: int) -> None:
    with first_task(port, None, size=3) as first:
        one, other = connected(port), connected(port)
        peer.introduce(one, "1.0", 1, "")
        one_is_in = threading.Event()

        def second() -> None:
            peer.introduce(other, "1.0", 1, "")
            assert is_closed(other)
            one_is_in.set()

        with ThreadPoolExecutor(1) as threads:
            done = threads.submit(second)
            assert one_is_in.wait(WAIT)
            done.result()
        with Group(task(2, port, 3), WAIT):
            assert first.result().unproven == {1, 2}


@pytest.mark.parametrize("sent", [b"x" * 4096, b"[" * 1000 + b"\n", b"\xff\n", b"{}\n", b"[1]\n", b"NaN\n", b""])
def test_other_greetings(port: int, sent: bytes) -> None:
    """Too long, too deep, no JSON, something else: refused at once."""
    with first_task(port, None) as first:
        stranger = connected(port)
        stranger._connection.sendall(sent)
        stranger._connection.shutdown(socket.SHUT_WR)
        assert is_closed(stranger)
        with Group(task(1, port), WAIT):
            assert first.result().unproven == {1}


def test_silent_strangers_do_not_delay_the_tasks(port: int) -> None:
    with first_task(port, None) as first:
        silent = [connected(port) for _ in range(5)]
        with Group(task(1, port), WAIT):
            assert first.result(peer.GREETING / 2).unproven == {1}
        for stranger in silent:
            stranger.close()


FIRST = """
import resource, sys
from llama31.doctor.group import Group, StepTask
port, limit, wait = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
with Group(StepTask(0, 2, 0, "n1", ("localhost",), "1.0", port), wait) as first:
    print(first.exchange("one", wait))
"""


def test_more_strangers_than_open_files(port: int) -> None:
    """The first task accepts more when some have gone, and finally the other task."""
    limit, more = 40, 20
    arguments = [str(port), str(limit), str(int(WAIT))]
    with subprocess.Popen([sys.executable, "-c", FIRST, *arguments], text=True, stdout=subprocess.PIPE) as process:
        strangers = [connected(port) for _ in range(limit + more)]
        end = time.monotonic() + WAIT
        for stranger in strangers[:more]:  # for each that goes, one more is accepted
            while len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < limit:
                assert time.monotonic() < end and process.poll() is None
            stranger.close()
        for stranger in strangers[more:]:
            stranger.close()
        with Group(task(1, port), WAIT) as second:
            assert second.exchange("two", WAIT) == {0: "one"}
        assert process.communicate(timeout=WAIT) == ("{0: 'one', 1: 'two'}\n", None)


def test_a_line_without_end_takes_no_memory() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = Peer.__new__(Peer)
        reader._connection, reader._received = ours, b""
        theirs.sendall(b"x" * 100_000)
        with pytest.raises(ValueError, match="a line of more than 1,000 bytes"):
            reader.receive(time.monotonic() + WAIT, longest=1000)
        assert len(reader._received) <= 1000 + (1 << 16)


def test_another_program_at_the_first_tasks_port(port: int, tmp_path: Path) -> None:
    """It does not get the findings of a task that knows the secret."""
    (tmp_path / ".llama31-doctor-1.0-token").touch(0o600)
    secret = token(tmp_path).create()
    with socket.create_server(("localhost", port)) as server, ThreadPoolExecutor(1) as threads:
        second = threads.submit(Group, task(1, port), 0, token(tmp_path))
        impostor = Peer(server.accept()[0])
        impostor.receive(time.monotonic() + WAIT)
        impostor.send(["nonce", "proof"])
        assert is_closed(impostor)
        with pytest.raises(Disconnected, match="another program answers at the first task's port"):
            second.result()
    assert secret


def test_a_secret_that_others_can_read_or_that_is_a_link_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama31.doctor.step_token.APPEARS", 0.2)
    written = token(tmp_path).create()
    file = tmp_path / ".llama31-doctor-1.0-token"
    assert file.stat().st_mode & 0o777 == 0o600 and token(tmp_path).find() == written
    file.chmod(0o640)
    assert token(tmp_path).find() == ""
    file.chmod(0o600)
    file.rename(tmp_path / "other")
    file.symlink_to(tmp_path / "other")
    assert token(tmp_path).find() == ""
    assert token(tmp_path).create() not in ("", written), "a link is replaced, not followed"
    token(tmp_path).remove()
    assert [file.name for file in tmp_path.iterdir()] == ["other"]
    os.mkfifo(file, 0o600)
    assert token(tmp_path).find() == "", "another user's pipe is not waited for"


def test_answers_of_another_form_count_as_none(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A task that sends something else than findings is reported missing, and no escape sequence reaches a terminal."""
    answers = [["n2", [["failed", "red\x1b[31m", "", None]]], ["n2", [["unknown", 1, 2, 3]]]]

    def send() -> None:
        with Group(task(1, port), WAIT) as second:
            for answer in answers:
                second.exchange(answer, WAIT)

    sender = threading.Thread(target=send)
    sender.start()
    with Group(task(0, port), WAIT) as first:
        here = Context(resolve([], {}).settings, WAIT, task(0, port))
        wanted = [Check("one", lambda _: iter([ok("well")])), Check("two", lambda _: iter([ok("well")]))]
        assert doctor.examine(here, first, wanted) == 1
    sender.join()
    said = capsys.readouterr().out
    assert re.search(r"^failed   one: +n2: red\?\[31m$", said, re.M)
    assert re.search(r"^failed   nodes: +n2: no answer \(rank 1\)", said, re.M)


ODD = (1, "x", [1], [["ok"]], [["ok", 1, "", None]], [["ok", "", "", "x"]], [[[], "", "", 1]])


@pytest.mark.parametrize("value", ODD)
def test_findings_of_another_form(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        from_json(value)  # type: ignore[arg-type]
