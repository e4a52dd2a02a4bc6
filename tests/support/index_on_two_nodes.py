"""A rank on one of two nodes that calls index_sharing.ensure three times: SETTINGS-of-the-index as JSON, RANK in env.

Before the second time, rank 1 damages a file of its copy. Each call prints the SHA-256 of all files as a JSON line.
"""

import json
import os
import sys
from pathlib import Path

import torch

from llama31.common.files import sha256_of
from llama31.data import index_sharing
from llama31.data.index import CONTENTS, Index

if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    root, prefixes = sys.argv[1], sys.argv[2:]
    index_sharing.PIECE = 1000  # so that a file takes several
    for time in range(3):
        wanted = None if rank else Index.of(root, prefixes, 48, 1, limit=500)
        directory, covered = index_sharing.ensure(wanted)
        assert list(covered) == prefixes
        files = {path.name: sha256_of(path) for path in sorted(Path(directory).iterdir())}
        print(json.dumps(files), flush=True)
        torch.distributed.barrier()
        if rank == 1 and time == 0:
            damaged = next(path for path in Path(directory).iterdir() if path.name != CONTENTS)
            damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()
