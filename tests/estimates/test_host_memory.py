"""The host memory of SAVE_ASYNC, compared with the arithmetic for several layouts."""

from dataclasses import replace
from pathlib import Path

import pytest

from llama31 import rules
from llama31.config.model_sizes import SIZES
from llama31.estimates import host_memory
from llama31.settings import Precision, Settings

VOCABULARY = rules.VOCABULARY_SIZE
PARAMETERS = SIZES["8b"].parameters(VOCABULARY)
TWO_NODES = Settings(nnodes=2, gpus_per_node=8)


def test_one_rank_copies_the_whole_state() -> None:
    one = Settings(gpus_per_node=1)
    assert host_memory.of_node(one, VOCABULARY) == 14 * PARAMETERS
    assert host_memory.of_node(replace(one, precision=Precision.fp32), VOCABULARY) == 16 * PARAMETERS


def test_the_first_rank_of_a_data_parallel_group_has_the_optimizer_state() -> None:
    first, second = (host_memory.of_rank(TWO_NODES, VOCABULARY, rank) for rank in (0, 1))
    assert first == pytest.approx(PARAMETERS * (12 + 2 / 16), rel=1e-9)
    assert second == pytest.approx(PARAMETERS * 14 / 16, rel=1e-9)
    assert host_memory.of_node(TWO_NODES, VOCABULARY) == pytest.approx(first + 7 * second)


def test_the_first_node_has_the_copies_of_all_tensor_parallel_ranks() -> None:
    divided = replace(TWO_NODES, tensor_parallel_size=8)
    first = host_memory.of_node(divided, VOCABULARY)
    assert first == pytest.approx(PARAMETERS * (12 + 2 / 2), rel=2e-3), "norms are on each rank"
    second = sum(host_memory.of_rank(divided, VOCABULARY, rank) for rank in range(8, 16))
    assert second == pytest.approx(PARAMETERS * 14 / 2, rel=2e-3)


def test_pipeline_stages_start_on_different_nodes() -> None:
    staged = replace(TWO_NODES, pipeline_parallel_size=2)
    half = PARAMETERS / 2
    expected = half * (12 + 2 / 8) + 7 * half * 14 / 8
    assert host_memory.of_node(staged, VOCABULARY) == pytest.approx(expected, rel=1e-3)


def test_available_memory_is_that_of_the_machine_at_most() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert 0 < host_memory.available() <= 1024 * int(total.split()[1])


def test_a_cgroup_limits_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(host_memory, "CGROUPS", tmp_path)
    assert host_memory.available() == 2_000_000
