"""Keep code in a checkpoint from being executed when torch loads it.

torch's distributed checkpoints hold two kinds of pickles. Tensors and objects go through torch.load, which
TORCH_FORCE_WEIGHTS_ONLY_LOAD restricts to data (set in `llama31.train`). The table of contents, `.metadata`, goes
through pickle itself. So it is read here first, and refused if it names anything but the classes of such tables.
"""

import pickle
from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import Any

from llama31.checkpoint.formats import dcp_metadata
from llama31.checkpoint.formats.dcp_metadata import InertUnpickler, UnpickledState

_KNOWN = {
    "collections": {"OrderedDict"},
    "megatron.core.dist_checkpointing.strategies.torch": {"MCoreMetadata", "MCoreSavePlan"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},  # in newer Pythons
    "torch": {"Size"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata",
    },
    "torch.distributed.checkpoint.planner": {"BytesIOWriteData", "SavePlan", "TensorWriteData", "WriteItem"},
    "torch.serialization": {"_get_layout"},
}  # fmt: skip
_ENUMS = {
    "torch.distributed.checkpoint.metadata": {"_MEM_FORMAT_ENCODING"},
    "torch.distributed.checkpoint.planner": {"WriteItemType"},
}


class _EnumMember(UnpickledState):
    """Stand-in for getattr that refuses everything but a member of a known Enum.

    Python 3.11.2 pickles a member as getattr(class, name); 3.10.13, 3.11.7, 3.12.1 and 3.13.0 as class(value).
    """

    def __new__(cls, *arguments: Any) -> Any:
        match arguments:
            case (type() as enum, str() as name) if name in getattr(enum, "members", ()):
                return UnpickledState()
        shown = ", ".join(getattr(value, "__name__", None) or repr(value) for value in arguments)
        raise pickle.UnpicklingError(f"names builtins.getattr({shown})")


class _TableUnpickler(InertUnpickler):
    """Unpickler that accepts only the classes of torch's and Megatron's tables, torch's types and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if name in _ENUMS.get(module, ()):
            members: Collection[str] = getattr(import_module(module), name).__members__
            return type(name, (UnpickledState,), {"members": members})
        if (module, name) == ("builtins", "getattr"):
            return _EnumMember
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or name in _KNOWN.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"names {module}.{name}")


def read_table(weights: Path) -> Any:
    """Return the table, as `dcp_metadata.load`. Raises UserError also if torch would execute something in it."""
    return dcp_metadata.load(weights, _TableUnpickler)
