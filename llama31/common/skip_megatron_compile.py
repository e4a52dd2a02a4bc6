"""Spares every process the compilation that importing Megatron-Core 0.15 starts.

It is that of an allocator for Megatron's inference, which nothing here uses. It takes a compiler and up to half a
minute; torch does it under a lock file in the home directory, on which all later processes wait for ever if one is
killed meanwhile; and torch's CUDA build fails at it where there is no GPU. Megatron goes without the allocator where it
cannot be had, and so it does with the module that stands here in the place of its own.
"""

import sys
from types import ModuleType
from typing import NoReturn

NAME = "megatron.core.inference.unified_memory"


def _create_unified_mempool() -> NoReturn:
    raise RuntimeError(f"{NAME} is left out (llama31.common.skip_megatron_compile)")


def leave_out() -> None:
    """Has `import megatron.core` compile nothing in this process."""
    module = ModuleType(NAME, __doc__)
    vars(module).update(has_unified_memory=False, create_unified_mempool=_create_unified_mempool)
    sys.modules.setdefault(NAME, module)
