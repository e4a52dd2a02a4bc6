"""torchrun's own state, which it pickles, is in a file of this user and not in a store that others can reach."""

from pathlib import Path

import pytest
from torch.distributed import run as torchrun
from torch.distributed.elastic.rendezvous import RendezvousParameters, c10d_rendezvous_backend

from llama31.config.resolve import from_dict
from llama31.launch import local, rank_command


def test_the_state_is_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rank_command.STORE, str(tmp_path / "store"))
    command = local.command(from_dict({"gpus_per_node": 2}), tmp_path)
    config, _, _ = torchrun.config_from_args(torchrun.parse_args(command[3:]))
    assert (config.nproc_per_node, config.local_addr, config.rdzv_endpoint) == (2, "localhost", str(tmp_path / "store"))
    parameters = RendezvousParameters(
        config.rdzv_backend, config.rdzv_endpoint, config.run_id, config.min_nodes, config.max_nodes, config.local_addr,
        **config.rdzv_configs,
    )  # fmt: skip
    _, store = c10d_rendezvous_backend.create_backend(parameters)
    store.set("key", "value")
    assert b"value" in (tmp_path / "store").read_bytes()
