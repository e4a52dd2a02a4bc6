"""A rank as pretrain_llama31.py's, of which rank 1 sleeps in a collective after its step HANG_AFTER: RUN_DIR."""

import os
import time
from typing import Any

HANG_AFTER = "TEST_HANG_AFTER"
"""Variable: the step after which rank 1 sleeps in its next reduction of gradients; unset: never."""


def hang_after(last: int) -> None:
    """Has the reduction of gradients after that many of them never return."""
    from nemo.lightning.pytorch.optim import megatron

    stock, calls = megatron.finalize_model_grads, 0

    def sleeping(*arguments: Any, **others: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > last:
            time.sleep(100_000)
        return stock(*arguments, **others)

    megatron.finalize_model_grads = sleeping


if __name__ == "__main__":
    import pretrain_llama31

    if os.environ["RANK"] == "1" and HANG_AFTER in os.environ:
        hang_after(int(os.environ[HANG_AFTER]))
    pretrain_llama31.main()
elif __name__ == "__mp_main__":  # multiprocessing spawned this process from a rank
    from llama31.common import child_processes

    child_processes.end_spawned()
