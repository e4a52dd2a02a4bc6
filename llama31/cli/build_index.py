"""Build the training indices of a run before the run."""

import logging
import os
import time
import warnings
from collections.abc import Sequence

from llama31.common import training_packages
from llama31.common.errors import UserError
from llama31.common.units import size
from llama31.config import devices, paths
from llama31.data import inputs
from llama31.data.index import Index, ensure
from llama31.launch import prepare


def index(arguments: Sequence[str]) -> None:
    """Build the missing index of each seed in SEEDS; print its size and the time taken.

    Raises UserError for invalid settings, for empty SEEDS, and if an index cannot be built.
    """
    resolved, data = prepare.checked(arguments, os.environ)
    settings = resolved.settings
    if devices.is_through_ssh(settings):
        raise UserError(f"HOST={settings.host}: the index is built where the data is; run this there, without HOST")
    if settings.mock_data:
        raise UserError("MOCK_DATA=1: synthetic tokens have no index; leave it out")
    if not settings.seeds:
        raise UserError("SEEDS is empty: each seed has an index of its own; set it, for example SEEDS=1234")
    training_packages.require("index")
    for line in inputs.skipped_lines(settings, data) if data else ():
        print(line, flush=True)
    # Megatron warns at import about optional parts that are not used here.
    warnings.simplefilter("ignore")
    logging.getLogger("megatron").setLevel(logging.ERROR)
    for seed in map(int, settings.seeds.split()):
        began = time.monotonic()
        root, prefixes = paths.index_root(settings), paths.train_prefixes(settings)
        wanted = Index.of(root, prefixes, settings.seq_length, seed, limit=settings.sample_limit)
        contents, built = ensure(wanted)
        line = f"{wanted.directory}: {wanted.samples:,} sequences in the order of seed {seed}, {size(contents.bytes)}"
        how = "built" if built else "found and checked"
        print(f"{line}, {how} in {time.monotonic() - began:.1f} s", flush=True)
