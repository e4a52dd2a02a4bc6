"""Memory that is shared with a process forked before it grew."""

import os

from llama31.common.shared_memory import SharedMemory


def test_a_forked_process_sees_what_is_written_later() -> None:
    memory = SharedMemory()
    memory.resize(10)
    request, answer = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(request[0], 1)
        memory.resize(1_000_000)
        assert memory.view
        os.write(answer[1], memory.view[:2] + memory.view[-2:])
        os._exit(0)
    assert memory.view
    memory.view[:2] = b"ab"
    memory.resize(1_000_000)
    assert memory.view[:2] == b"ab", "contents stay"
    memory.view[-2:] = b"yz"
    os.write(request[1], b"!")
    assert os.read(answer[0], 4) == b"abyz"
    os.waitpid(pid, 0)


def test_nothing_is_shared_before_the_first_size() -> None:
    memory = SharedMemory()
    memory.resize(0)
    assert memory.view is None
