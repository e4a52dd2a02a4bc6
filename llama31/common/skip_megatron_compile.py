"""Keep Megatron-Core 0.15 from compiling C++ code when it is imported.

It compiles an allocator for inference, which training does not use. That takes a compiler and up to half a minute.
While it compiles, torch holds a lock file in the home directory; if it is killed, all later processes wait forever.
And torch's CUDA build fails to compile it on a machine without a GPU. Megatron falls back if the allocator is missing;
the stub module here makes it do so.
"""

import sys
from types import ModuleType
from typing import NoReturn

NAME = "megatron.core.inference.unified_memory"


def _create_unified_mempool() -> NoReturn:
    raise RuntimeError(f"{NAME} is disabled by llama31.common.skip_megatron_compile")


def install_stub() -> None:
    """Install the stub, so that `import megatron.core` compiles nothing in this process."""
    module = ModuleType(NAME, __doc__)
    vars(module).update(has_unified_memory=False, create_unified_mempool=_create_unified_mempool)
    sys.modules.setdefault(NAME, module)
