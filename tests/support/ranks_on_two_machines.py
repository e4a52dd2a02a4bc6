"""A rank of a run on two machines: RUN_DIR, under torchrun. Rank 1 runs after the shell command in DIFFERS.

That command has a mount namespace of its own, so that what it mounts or exports is seen by rank 1 only.
"""

import os
import runpy
import sys
from pathlib import Path

PRODUCT = str(Path(__file__).resolve().parents[2] / "pretrain_llama31.py")

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        differs = f'{os.environ["DIFFERS"]} && exec "$0" "$@"'
        os.execvp("unshare", ["unshare", "--mount", "sh", "-c", differs, sys.executable, PRODUCT, *sys.argv[1:]])
    runpy.run_path(PRODUCT, run_name="__main__")
