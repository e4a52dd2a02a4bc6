"""The training index on nodes with disks of their own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from built_data import settings_for
from checkout import REPOSITORY, SUPPORT

from llama31.config import paths

RANK = str(SUPPORT / "index_on_two_nodes.py")


@pytest.mark.slow
def test_a_node_with_a_disk_of_its_own_gets_the_index(tiny_data: dict[str, str], tmp_path: Path) -> None:
    """Rank 1 sees another file system under TMP_NPY_INDEX; its copy is checked, and sent again if it is damaged."""
    root = tmp_path / "index"
    root.mkdir()
    prefixes = [str(prefix) for prefix in paths.train_prefixes(settings_for(tiny_data, tmp_path))]
    command = [sys.executable, RANK, str(root), *prefixes]
    mounted = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs tmpfs "{root}" && exec "$0" "$@"', *command]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(of_rank, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank, of_rank in enumerate([command, mounted])
    ]
    first, second = (rank.communicate(timeout=240)[0] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0], first + second
    built = [json.loads(line) for line in first.splitlines() if line.startswith("{")]
    received = [json.loads(line) for line in second.splitlines() if line.startswith("{")]
    assert len(built) == 3 and received == built and len(built[0]) == 7
    assert second.count(": received from the first node, ") == 2, "at first, and after it was damaged"
    assert second.count(": not as written: renamed ") == 1


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
