"""Environment variables that are no settings: which ones libraries read, and which may leave this machine."""

import re
from collections.abc import Mapping

LIBRARIES = (
    "CUBLAS", "CUDA_", "CUDNN_", "FI_", "GLOO_", "GPU_MAX_", "HF_", "HIP", "HSA_", "KMP_", "LD_", "LLAMA31_", "MIOPEN_",
    "MKL_", "MLFLOW_", "NCCL_", "NVTE_", "OFI_", "OMPI_MCA_", "OMP_", "PATH", "PYTHON", "PYTORCH_", "RCCL_", "ROCBLAS_",
    "ROCM_", "ROCR_", "SHARP_", "TENSILE_", "TOKENIZERS_", "TORCH", "TRITON_", "UCX_", "WANDB_",
)  # fmt: skip
"""Prefixes of variables that libraries read. A config.sh may export them beside the settings."""
PLACES = ("CUDA_HOME", "CUDA_PATH", "HIP_PATH", "LD_", "LLAMA31_", "PATH", "PYTHON", "ROCM_HOME", "ROCM_PATH")
"""Prefixes of variables that hold paths of one machine, and are useless in a container."""
OF_ONE_MACHINE = (*PLACES, "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Prefixes of variables that are useless on another machine."""
CACHE = re.compile(r"_(HOME|CACHE|CACHE_DIR|CACHE_PATH)$|^WANDB_\w*DIR$")
"""Names of variables that hold a library's cache directory. Without them the library uses its default directory."""
SECRETS = re.compile("AUTH|CREDENTIAL|HEADERS|KEY|PASSPHRASE|PASSWD|PASSWORD|SECRET|TOKEN(?!IZER)")
"""Parts of names of variables whose values must not be written to a file."""
USER_IN_ADDRESS = re.compile(r"://[^/\s]*@")
"""Part of a value that may hold a password, as in WANDB_BASE_URL."""


def read_by_libraries(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that libraries read, sorted by name, without secrets: what run.json may record."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.startswith(LIBRARIES) and not is_secret(name) and not USER_IN_ADDRESS.search(value)
    }


def is_secret(name: str) -> bool:
    """Return whether the value of a variable must not be recorded, judging by its name."""
    return bool(SECRETS.search(name))


def to_forward(environment: Mapping[str, str], *, other_file_system: bool = False) -> dict[str, str]:
    """Subset of `read_by_libraries` worth forwarding to another machine or container, and worth comparing on replay.

    With `other_file_system`, cache directories are left out too: the other machine does not see them.
    """
    return {
        name: value
        for name, value in read_by_libraries(environment).items()
        if not name.startswith(OF_ONE_MACHINE) and not (other_file_system and CACHE.search(name))
    }
