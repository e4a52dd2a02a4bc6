"""Binding to a GPU's NUMA node: with stand-ins for driver and /sys, on the real cores of this machine."""

import multiprocessing
import os
import shutil
import subprocess
import threading
from pathlib import Path

import lacking
import pytest
import torch

from llama31.common.errors import UserError
from llama31.model import numa

DRIVER = """
#include <stdio.h>
int {p}Init(unsigned flags) {{ return flags; }}
int {p}DeviceGet(int *device, int ordinal) {{ *device = 40 + ordinal; return ordinal > 7 ? 101 : 0; }}
int {p}DeviceGetPCIBusId(char *address, int length, int device) {{
    return snprintf(address, length, "0000:%02X:00.0", device) < length ? 0 : 1;
}}
"""
CORES = sorted(os.sched_getaffinity(0))


@pytest.fixture(autouse=True, params=["cu", "hip"])
def driver(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library with the functions of a driver, whose GPU 1 is at 0000:29:00.0."""
    compiler = shutil.which("cc") or lacking.skip("no C compiler")
    library = tmp_path / "driver.so"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=DRIVER.format(p=request.param), text=True, check=True)
    monkeypatch.setattr(numa, "DRIVERS", (("libmissing.so.1", "cu"), (str(library), request.param)))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of two nodes: GPU 1 is on node 1, which has the last of our cores."""
    system = tmp_path / "sys"
    gpu = system / "bus/pci/devices/0000:29:00.0"
    gpu.mkdir(parents=True)
    (gpu / "numa_node").write_text("1\n")
    for node, cores in enumerate(("500-503,508", f"{CORES[-1]},600-601")):
        (system / f"devices/system/node/node{node}").mkdir(parents=True)
        (system / f"devices/system/node/node{node}/cpulist").write_text(f"{cores}\n")
    (system / "devices/system/node/online").write_text("0-1\n")
    monkeypatch.setattr(numa, "SYSTEM", system)
    return system


def _bound(said: "multiprocessing.SimpleQueue[object]") -> None:
    line = numa.bind(1)
    found: list[set[int]] = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
    thread.start()
    thread.join()
    said.put((line, os.sched_getaffinity(0), found[0]))


def test_a_rank_and_its_threads_stay_on_the_cores_near_its_gpu(machine: Path) -> None:
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    process = context.Process(target=_bound, args=(said,))
    process.start()
    line, mine, of_thread = said.get()  # type: ignore[misc]
    process.join()
    assert mine == of_thread == {CORES[-1]}
    assert line == f"GPU 0000:29:00.0: bound to 1 cores of NUMA node 1, {CORES[-1]},600-601"
    assert sorted(os.sched_getaffinity(0)) == CORES, "only that process"


def _counted(said: "multiprocessing.SimpleQueue[int]") -> None:
    numa.bind(1)
    said.put(torch.get_num_threads())


@pytest.mark.skipif(len(CORES) == 1, reason="needs a core to leave out")
@pytest.mark.parametrize("given", [None, str(len(CORES))], ids=["unset", "OMP_NUM_THREADS"])
def test_torch_that_was_imported_before_has_as_many_threads_as_cores(
    machine: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """As in the ranks that torchrun forks."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    before = torch.get_num_threads()
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    process = context.Process(target=_counted, args=(said,))
    process.start()
    assert said.get() == (before if given else 1)
    process.join()


def test_what_cannot_be_bound_is_one_line(machine: Path) -> None:
    node = machine / "bus/pci/devices/0000:29:00.0/numa_node"
    node.write_text("0\n")
    with pytest.raises(UserError, match=r"NUMA node 0 with the cores 500-503,508, but this job may only use "):
        numa.bind(1)
    node.write_text("-1\n")
    with pytest.raises(UserError, match=r"does not say which NUMA node GPU 0000:29:00\.0 belongs to \(numa_node is -1"):
        numa.bind(1)
    (machine / "devices/system/node/online").write_text("0\n")
    assert numa.bind(1).endswith("has a single NUMA node, so there is nothing to bind to")
    with pytest.raises(UserError, match=r"does not know GPU 8 \(error 101\)"):
        numa.bind(8)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numa, "DRIVERS", (("libmissing.so.1", "cu"),))
    with pytest.raises(
        UserError, match=r"no GPU driver here, libmissing\.so\.1 cannot be loaded; NUMA_BINDING=0 works"
    ):
        numa.bind(0)
