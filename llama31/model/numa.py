"""Bind a rank to the NUMA node of its GPU (NUMA_BINDING), before it starts threads.

Threads run on the cores of that node only. Memory follows without a policy of its own: the kernel takes a page from the
node of the core that first touches it (kernel: admin-guide/mm/numa_memory_policy.rst, "local allocation").
"""

import ctypes
import os
import sys
from pathlib import Path

from llama31.common.errors import UserError

SYSTEM = Path("/sys")
DRIVERS = (("libcuda.so.1", "cu"), ("libamdhip64.so", "hip"))
"""Libraries of the drivers, and the prefix of their functions."""
ADDRESS_BYTES = 64


def bind(local_rank: int) -> str:
    """Bind this process to the cores near GPU `local_rank`. Return a line that says to which.

    Raises UserError if the GPU's node is unknown, or if this process may not use any of its cores.
    """
    address = pci_address(local_rank)
    nodes = _cores((SYSTEM / "devices/system/node/online").read_text())
    node = int((SYSTEM / "bus/pci/devices" / address / "numa_node").read_text())
    if len(nodes) == 1:
        return f"GPU {address}: this machine has a single NUMA node, so there is nothing to bind to"
    if node not in nodes:
        raise UserError(
            f"NUMA_BINDING=1: {os.uname().nodename} does not say which NUMA node GPU {address} belongs to (numa_node "
            f"is {node}); NUMA_BINDING=0 works"
        )
    of_node = (SYSTEM / f"devices/system/node/node{node}/cpulist").read_text().strip()
    usable = _cores(of_node) & os.sched_getaffinity(0)
    if not usable:
        mine = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        raise UserError(
            f"NUMA_BINDING=1: GPU {address} belongs to NUMA node {node} with the cores {of_node}, but this job may "
            f"only use {mine}; request whole nodes with EXCLUSIVE=1"
        )
    os.sched_setaffinity(0, usable)
    if "OMP_NUM_THREADS" not in os.environ and (torch := sys.modules.get("torch")):
        torch.set_num_threads(len(usable))  # a fork, in which it counted the cores when all were usable
    return f"GPU {address}: bound to {len(usable)} cores of NUMA node {node}, {of_node}"


def pci_address(device: int) -> str:
    """Return the PCI address of a GPU as /sys names it, by the driver, whose numbers CUDA_VISIBLE_DEVICES changes.

    Raises UserError without a driver, or if it does not know the GPU.
    """
    for name, prefix in DRIVERS:
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        handle, address = ctypes.c_int(), ctypes.create_string_buffer(ADDRESS_BYTES)
        code = getattr(driver, f"{prefix}Init")(0) or getattr(driver, f"{prefix}DeviceGet")(
            ctypes.byref(handle), device
        )
        code = code or getattr(driver, f"{prefix}DeviceGetPCIBusId")(address, ADDRESS_BYTES, handle)
        if code:
            raise UserError(f"NUMA_BINDING=1: {name} does not know GPU {device} (error {code}); NUMA_BINDING=0 works")
        return address.value.decode().lower()
    names = " and ".join(name for name, _ in DRIVERS)
    raise UserError(f"NUMA_BINDING=1: no GPU driver here, {names} cannot be loaded; NUMA_BINDING=0 works")


def _cores(text: str) -> set[int]:
    """Return the numbers in a list of the kernel's, such as 0-3,8."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found
