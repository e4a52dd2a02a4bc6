"""The GPUs that the setting GPU can name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One accelerator, as its maker's data sheet has it."""

    memory: int
    """Bytes of its memory; data sheets count in units of 10^9."""
    bf16_flops: float
    """Peak of dense bf16 matrix products, operations per second. Sheets that give it with sparsity give twice that."""


GB = 10**9
TERA = 1e12

GPUS = {
    "H100": Gpu(80 * GB, 989 * TERA),
    "H200": Gpu(141 * GB, 989 * TERA),
    "B200": Gpu(180 * GB, 2250 * TERA),
    "GB200": Gpu(186 * GB, 2500 * TERA),
    "B300": Gpu(270 * GB, 2250 * TERA),
    "GB300": Gpu(279 * GB, 2500 * TERA),
    "MI300X": Gpu(192 * GB, 1307 * TERA),
    "MI325X": Gpu(256 * GB, 1307 * TERA),
    "MI350X": Gpu(288 * GB, 2300 * TERA),
    "MI355X": Gpu(288 * GB, 2500 * TERA),
}
"""By the value of GPU. Sources: NVIDIA's data sheets of H100 SXM, H200 SXM, HGX B200 and B300, GB200 and GB300 NVL72;
AMD's of the Instinct MI300X, MI325X, MI350X and MI355X."""

BLACKWELL = ("B200", "GB200", "B300", "GB300")
"""Those of NVIDIA's generation after Hopper."""


def called(device_name: str) -> Gpu | None:
    """The GPU of a name that its driver gives, such as NVIDIA H200 or AMD Instinct MI325X; None if it is no known one.

    Boards with less of everything, such as NVIDIA H100 PCIe or H200 NVL, are none of the table.
    """
    words = device_name.upper().split()
    if {"PCIE", "NVL"} & set(words):
        return None
    return next((gpu for name, gpu in GPUS.items() if name in words), None)
