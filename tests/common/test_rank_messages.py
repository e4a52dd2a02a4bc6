"""Messages between ranks: JSON and bytes of different lengths; nothing in the package uses torch's pickles for them."""

import ast
import json
import os
import socket
import subprocess
import sys

import pytest
from checkout import REPOSITORY, SUPPORT

PICKLING = {"all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "send_object_list"}


@pytest.mark.slow
def test_two_ranks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"PYTHONPATH": str(REPOSITORY), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, SUPPORT / "two_ranks.py"],
            env={**os.environ, **shared, "GLOO_SOCKET_IFNAME": "lo", "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, second = (json.loads(rank.communicate(timeout=240)[0].splitlines()[-1]) for rank in ranks)
    same = {
        "broadcast": {"of": 0}, "all_gather": [[0, "", None], [1, "é" * 5, None]], "bytes": [0, 3], "empty": [],
    }  # fmt: skip
    assert first == {**same, "gather": ["", "x" * 100_000]}
    assert second == {**same, "gather": []}


def test_no_message_of_ours_is_unpickled() -> None:
    for file in (REPOSITORY / "llama31").rglob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
        assert not names & PICKLING, f"{file}: use llama31.common.rank_messages"
