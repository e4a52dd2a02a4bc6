"""The GPUs that the setting GPU can name, with their memory and peak FLOP/s."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Data sheet values of a GPU. Peaks are of dense matrix products, FLOP/s."""

    memory: int
    """Bytes; data sheets count in units of 10^9."""
    bf16_flops: float
    """Peak in bf16; data sheets with sparsity give twice that."""
    fp8_flops: float
    """Peak in fp8."""
    fp4_flops: float | None = None
    """Peak in the vendor's 4-bit format (NVFP4, MXFP4); None if unsupported."""
    capability: tuple[int, int] | None = None
    """CUDA compute capability; None for AMD's."""

    def peak(self, precision: object) -> tuple[str, float | None]:
        """Return name and peak of the precision in a log's `lowest_numerical_precision_in_linear`.

        bf16 for any precision but fp8 and fp4. The peak is None if the GPU does not support the precision, or for None.
        """
        if precision is None:
            return "", None
        text = str(precision).lower()
        if "fp4" in text:
            return "fp4", self.fp4_flops
        return ("fp8", self.fp8_flops) if "fp8" in text else ("bf16", self.bf16_flops)


def recipes(capability: tuple[int, int] | None) -> tuple[str, ...]:
    """Return the recipes of fp8 and NVFP4 that Transformer Engine runs on GPUs of a compute capability.

    From its checks in transformer_engine/pytorch/quantization.py. AMD's (None) are known from published runs only.
    """
    if capability is None:
        return ("delayed", "tensorwise")
    found = ["delayed", "tensorwise"] if capability >= (8, 9) else []
    found += ["blockwise"] if capability >= (9, 0) else []
    found += ["mxfp8"] if (10, 0) <= capability < (12, 0) else []
    return (*found, *(["nvfp4"] if capability >= (10, 0) else []))


GB = 10**9
TERA = 1e12

GPUS = {
    "H100": Gpu(80 * GB, 989 * TERA, 1979 * TERA, capability=(9, 0)),
    "H200": Gpu(141 * GB, 989 * TERA, 1979 * TERA, capability=(9, 0)),
    "H200-NVL": Gpu(141 * GB, 835 * TERA, 1671 * TERA, capability=(9, 0)),
    "GH200": Gpu(96 * GB, 989 * TERA, 1979 * TERA, capability=(9, 0)),
    "B200": Gpu(180 * GB, 2250 * TERA, 4500 * TERA, 9000 * TERA, capability=(10, 0)),
    "GB200": Gpu(186 * GB, 2500 * TERA, 5000 * TERA, 10_000 * TERA, capability=(10, 0)),
    "B300": Gpu(270 * GB, 2250 * TERA, 4500 * TERA, 13_500 * TERA, capability=(10, 3)),
    "GB300": Gpu(279 * GB, 2500 * TERA, 5000 * TERA, 15_000 * TERA, capability=(10, 3)),
    "RTX-PRO-6000": Gpu(96 * GB, 500 * TERA, 1000 * TERA, 2000 * TERA, capability=(12, 0)),
    "MI300X": Gpu(192 * GB, 1307 * TERA, 2615 * TERA),
    "MI325X": Gpu(256 * GB, 1307 * TERA, 2615 * TERA),
    "MI350X": Gpu(288 * GB, 2300 * TERA, 4600 * TERA, 9200 * TERA),
    "MI355X": Gpu(288 * GB, 2500 * TERA, 5000 * TERA, 10_000 * TERA),
}
"""By value of the setting GPU. Sources: NVIDIA's data sheets of H100 SXM, H200 SXM and NVL, GH200 (with 96 GB of HBM3),
HGX B200 and B300, GB200 and GB300 NVL72, RTX PRO 6000 Blackwell Server Edition; AMD's of the Instinct MI300X, MI325X,
MI350X and MI355X. Compute capabilities: NVIDIA's table "CUDA GPU Compute Capability"."""

BLACKWELL = ("B200", "GB200", "B300", "GB300")
"""NVIDIA's data-centre GPUs of the generation after Hopper."""


def key_of(name: str) -> str | None:
    """Return the key in `GPUS` of a GPU's name in a driver, a log or a setting; None if it is not in the table.

    Examples: NVIDIA H200 NVL, NVIDIA Blackwell GPU (GB200), RTX PRO 6000 Blackwell. Slower boards, such as
    NVIDIA H100 PCIe or H100 NVL, are not in the table.
    """
    words = re.split(r"[\s_()-]+", name.upper())
    found = [key for key in GPUS if set(key.split("-")) <= set(words)]
    if not found or {"PCIE", "MAX"} & set(words):
        return None
    key = max(found, key=len)  # H200-NVL before H200
    return None if "NVL" in words and "NVL" not in key else key


def by_device_name(device_name: str) -> Gpu | None:
    """Return the GPU with this name in its driver; None if it is not in the table."""
    key = key_of(device_name)
    return GPUS[key] if key else None
