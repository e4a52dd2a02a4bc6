"""python3 -m llama31 index: the training index of a run's seeds, built before the run."""

import logging
import os
import time
import warnings
from collections.abc import Sequence

from llama31.common.errors import UserError
from llama31.common.units import size
from llama31.config import devices, paths
from llama31.data import index, inputs
from llama31.launch import prepare


def main(arguments: Sequence[str]) -> None:
    """Builds what is not there yet, and says how large it is and how long that took.

    Raises UserError for settings that cannot work, for want of seeds, and where the index cannot be built.
    """
    resolved, data = prepare.checked(arguments, os.environ)
    settings = resolved.settings
    if devices.is_through_ssh(settings):
        raise UserError(f"HOST={settings.host}: the index is built where the data is; leave HOST empty there")
    if not settings.seeds:
        raise UserError("SEEDS is empty: the order of the data is the seed's, such as SEEDS=1234")
    for line in inputs.skipped_lines(settings, data) if data else ():
        print(line, flush=True)
    # What Megatron says, when it is imported, of parts that are not used here is nothing that a user can act on.
    warnings.simplefilter("ignore")
    logging.getLogger("megatron").setLevel(logging.ERROR)
    for seed in map(int, settings.seeds.split()):
        began = time.monotonic()
        wanted = index.Index.of(
            paths.index_root(settings),
            paths.train_prefixes(settings),
            settings.seq_length,
            seed,
            limit=settings.sample_limit,
        )
        contents, built = index.ensure(wanted)
        print(
            f"{wanted.directory}: {wanted.samples:,} sequences in the order of seed {seed}, "
            f"{size(contents.bytes)}, {'built' if built else 'found and checked'} in "
            f"{time.monotonic() - began:.1f} s",
            flush=True,
        )
