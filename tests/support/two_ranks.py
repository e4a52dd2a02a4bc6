"""A rank of two that exchanges messages by rank_messages, over gloo: RANK and so on in the environment. Prints JSON."""

import json
import os

import torch

from llama31.common import rank_messages

if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    found = {
        "broadcast": rank_messages.broadcast({"of": rank}),
        "all_gather": rank_messages.all_gather([rank, "é" * 5 * rank, None]),
        "gather": rank_messages.gather("x" * 100_000 * rank),
        "bytes": [len(of_rank) for of_rank in rank_messages.all_gather_bytes(bytes(3 * rank))],
        "empty": list(rank_messages.broadcast_bytes(b"")),
    }
    print(json.dumps(found), flush=True)
    torch.distributed.destroy_process_group()
