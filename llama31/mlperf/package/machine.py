"""Describe this machine for a system description, without torch and without root.

Each function returns only the fields (see `llama31.mlperf.package.system_description`) that it could determine.
"""

import contextlib
import csv
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

FRAMEWORK = {"nemo_toolkit": "NVIDIA NeMo", "megatron-core": "Megatron-Core", "torch": "PyTorch"}
LIBRARIES = {"transformer_engine": "Transformer Engine", "lightning": "Lightning", "mlperf-logging": "mlperf-logging"}
IMAGE_VARIABLES = {"CUDA_VERSION": "CUDA", "CUDNN_VERSION": "cuDNN", "NCCL_VERSION": "NCCL"}
"""Environment variables that NVIDIA's container images set."""

SYSTEM = Path("/sys/class")
MEMORY = Path("/proc/meminfo")
GPU_FIELDS = ("name", "memory.total", "clocks.max.sm", "pcie.link.gen.max", "pcie.link.width.max", "driver_version")


def describe() -> dict[str, str]:
    """Return all fields that could be determined: field -> value."""
    return {**processors(), **memory(), **storage(), **network(), **gpus(), **software()}


def processors() -> dict[str, str]:
    """Query lscpu. Core and thread counts are per processor."""
    cpu = _lscpu()
    sockets, cores, threads = (cpu.get(name, "") for name in ("Socket(s)", "Core(s) per socket", "Thread(s) per core"))
    found = {"host_processor_model_name": cpu.get("Model name", ""), "host_processors_per_node": sockets}
    if cores.isdecimal() and threads.isdecimal():
        found["host_processor_core_count"] = cores
        found["host_processor_vcpu_count"] = str(int(cores) * int(threads))
    if cpu.get("CPU max MHz"):
        found["host_processor_frequency"] = f"{float(cpu['CPU max MHz']):.0f} MHz at most"
    sizes = {name.removesuffix(" cache"): size for name, size in cpu.items() if name.startswith(("L1", "L2", "L3"))}
    found["host_processor_caches"] = f"{_listed(sizes)}, summed over the node" if sizes else ""
    if sockets == "1":
        found["host_processor_interconnect"] = "N/A, one processor"
    return _known(found)


def memory() -> dict[str, str]:
    """Return the memory that the kernel reports, slightly less than what is installed."""
    with contextlib.suppress(OSError):
        for line in MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("MemTotal:"):
                return {"host_memory_capacity": f"{int(line.split()[1]) / 2**20:.0f} GiB"}
    return {}


def storage() -> dict[str, str]:
    """Query lsblk for the types and sizes of the disks."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        listing = json.loads(_output("lsblk", "--json", "--bytes", "--nodeps", "--output", "NAME,SIZE,ROTA,TYPE"))
        disks = [disk for disk in listing["blockdevices"] if disk["type"] == "disk" and int(disk["size"])]
        kinds = {_kind(disk["name"], rotates=disk["rota"]) for disk in disks}
        sizes = [f"{int(disk['size']) / 1e9:,.0f} GB" for disk in disks]
        capacity = ", ".join(f"{sizes.count(size)}x {size}" for size in dict.fromkeys(sizes))
        return _known({"host_storage_type": ", ".join(sorted(kinds)), "host_storage_capacity": capacity})
    return {}


def _kind(name: str, *, rotates: bool) -> str:
    if name.startswith(("vd", "xvd")):
        return "virtual disk"
    return "NVMe SSD" if name.startswith("nvme") else "HDD" if rotates else "SSD"


def network() -> dict[str, str]:
    """Return the InfiniBand ports with their rates, or the Ethernet cards if there are none."""
    rates = [_text(file) for file in sorted(SYSTEM.glob("infiniband/*/ports/*/rate"))]
    cards = [f"InfiniBand or RoCE {rate}" for rate in rates if rate]
    if not cards:
        speeds = [_text(card.parent / "speed") for card in sorted(SYSTEM.glob("net/*/device"))]
        cards = [f"Ethernet {int(speed) // 1000} Gb/s" for speed in speeds if speed.isdecimal() and int(speed) >= 1000]
    return _known({"host_networking": ", ".join(f"{cards.count(card)}x {card}" for card in dict.fromkeys(cards))})


def gpus() -> dict[str, str]:
    """Query nvidia-smi, if it is installed."""
    rows = _nvidia_smi()
    if not rows:
        return {}
    mebibytes, clock, generation, width = rows[0][1:5]
    found = {
        "accelerators_per_node": str(len(rows)),
        "accelerator_model_name": " and ".join(dict.fromkeys(row[0] for row in rows)),
    }
    if mebibytes.isdecimal():
        found["accelerator_memory_capacity"] = f"{int(mebibytes) / 1024:.0f} GiB"
    if clock.isdecimal():
        found["accelerator_frequency"] = f"{clock} MHz at most"
    if generation.isdecimal() and width.isdecimal():
        found["accelerator_host_interconnect"] = f"PCIe {generation}.0 x{width}"
    return found


def software() -> dict[str, str]:
    """Return the versions of this environment and of the operating system."""
    libraries = {**_versions(LIBRARIES), **{title: os.environ.get(name, "") for name, title in IMAGE_VARIABLES.items()}}
    rows = _nvidia_smi()
    libraries |= {"NVIDIA driver": rows[0][-1] if rows else "", "Python": platform.python_version()}
    try:
        distribution = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        distribution = platform.system()
    return _known(
        {
            "framework": _listed(_versions(FRAMEWORK)),
            "other_software_stack": _listed(_known(libraries)),
            "operating_system": f"{distribution}, kernel {platform.release()}",
        }
    )


def _versions(packages: dict[str, str]) -> dict[str, str]:
    found = {}
    for package, title in packages.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[title] = importlib.metadata.version(package)
    return found


def _nvidia_smi() -> list[list[str]]:
    """Return a row of GPU_FIELDS for each GPU."""
    output = _output("nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits")
    return [[cell.strip() for cell in row] for row in csv.reader(output.splitlines()) if len(row) == len(GPU_FIELDS)]


def _lscpu() -> dict[str, str]:
    """Return lscpu's names and values; newer versions nest them."""
    try:
        pending: list[Any] = list(json.loads(_output("lscpu", "--json"))["lscpu"])
    except (ValueError, LookupError, TypeError):
        return {}
    found = {}
    while pending:
        entry = pending.pop(0)
        found[str(entry["field"]).rstrip(":")] = str(entry["data"] or "")
        pending += entry.get("children", [])
    return found


def _output(*command: str) -> str:
    """Return a command's standard output; empty if it is not installed or fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # the speed of a card that is down cannot be read
        return ""


def _known(values: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
