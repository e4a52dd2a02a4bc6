"""Measure speed and memory of the data loader, compared with stock NeMo's and with the fastest published system.

    python3 -m dev.bench.loader DIRECTORY [--documents 5000000] [--batches 2000] [--samples 1000000] [--rounds 3]

Makes a tokenizer with as many ids as Llama 3.1's, and a token file whose .bin is a sparse file: its pages come from the
kernel, like those of a cached file. Then the loader of one rank reads, checks and collates batches of one sequence of
the benchmark's length, without training:

    ours       this project's loader in the rank's process, as on a CPU
    ours, 2    with 2 worker processes, as on a GPU
    peer       stock NeMo's data module over Megatron's dataset and index, in the rank's process
    peer, 2    with 2 worker processes

They run in turns. Prints median tokens/s, the ratio to the peer of the same round, and the ratio to the consumption of
8 ranks of the fastest published system. At the end ours reads --samples short sequences, with and without workers, to
show whether memory grows.
"""

import itertools
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dev.bench import harness, random_data
from dev.bench.contender import Contender, in_turns, timed
from dev.bench.index import write_data
from llama31 import rules
from llama31.config import paths
from llama31.config.resolve import resolve
from llama31.data import token_file
from llama31.report.published import published
from llama31.settings import Settings

RANKS = 8  # of a node
SHORT = 64  # tokens per sequence when memory is measured
LOOKS = 10  # measurements of the memory
WORKERS = {"": 0, ", 2": 2}


def settings_for(directory: Path, documents: int, **more: object) -> Settings:
    """Make a token file with this number of documents, unless it exists; return the settings of one rank on it."""
    prefix = paths.train_prefixes(Settings(preprocessed_path=str(directory / "preprocessed"), train_parts="6"))[0]
    if not token_file.idx_path(prefix).exists() or token_file.summary(prefix).documents != documents:
        if not prefix.parent.exists():
            random_data.make(directory, rules.VOCABULARY_SIZE, tokens=random_data.DOCUMENT)
        write_data(prefix, documents)
    given = {
        "PREPROCESSED_PATH": prefix.parent,
        "TOKENIZER_PATH": directory / "tokenizer",
        "N_VALIDATION_SAMPLES": random_data.VALIDATION_DOCUMENTS,
        "TRAIN_PARTS": 6,
        "JOB_DIR": directory / "runs",
        "GBS": 1,
        "MBS": 1,
        **more,
    }
    return resolve([f"{name}={value}" for name, value in given.items()], {}).settings


def ours(settings: Settings) -> Any:
    """Build the recipe's data module with its index."""
    import fiddle
    import nemo_run as run
    from nemo.collections.common.tokenizers import AutoTokenizer

    from llama31 import recipe
    from llama31.model.device import Backend

    tokenizer = run.Config(AutoTokenizer, pretrained_model_name=settings.tokenizer_path)
    described = recipe.data(settings, Backend("cpu", transformer_engine=False), 1, tokenizer)
    described.eval_samples = 1
    module = fiddle.build(described)
    module.build()
    return module


def peer(settings: Settings) -> Any:
    """Build NeMo's data module for one pass, without the masks that it makes if Transformer Engine is missing."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from nemo.collections import llm
    from nemo.collections.common.tokenizers import AutoTokenizer

    (prefix,) = map(str, paths.train_prefixes(settings))
    module = llm.PreTrainingDataModule(
        paths={"train": [prefix], "validation": [prefix], "test": [prefix]},
        seq_length=settings.seq_length,
        micro_batch_size=settings.mbs,
        global_batch_size=settings.gbs,
        tokenizer=AutoTokenizer(settings.tokenizer_path),
        index_mapping_dir=str(Path(settings.job_dir) / "stock"),
    )
    module.create_attention_mask = False
    module.build_kwargs["blend_per_split"][1:] = [None, None]
    builder = BlendedMegatronDatasetBuilder(
        module.dataset_cls, [settings.sample_limit, None, None], lambda: True, module.gpt_dataset_config
    )
    module._train_ds, _, _ = builder.build()
    return module


def batches(module: Any, workers: int) -> Iterator[dict[str, Any]]:
    """Return an iterator over the training batches of a data module."""
    module.num_workers, module.persistent_workers, module.pin_memory = workers, workers > 0, False
    module.trainer = SimpleNamespace(global_step=0)
    return iter(module.data_sampler.transform_dataloader(module.train_dataloader()))


def contend(connection: Connection, make: Callable[[Settings], Any], settings: Settings, at_once: int) -> None:
    """Run a contender whose step reads `at_once` batches."""
    from llama31.model.cpu_backend import one_rank

    with one_rank():
        module = make(settings)
        loops = {ending: batches(module, workers) for ending, workers in WORKERS.items()}
        timed(connection, {ending: partial(skip, loop, at_once) for ending, loop in loops.items()})


def skip(loop: Iterator[Any], count: int) -> None:
    """Read `count` batches."""
    for _ in itertools.islice(loop, count):
        pass


def memory(connection: Connection, settings: Settings, workers: int, samples: int) -> None:
    """Send the private memory of this process and its workers after each tenth of the samples."""
    from llama31.model.cpu_backend import one_rank

    with one_rank():
        loop = batches(ours(settings), workers)
        connection.send("ready")
        connection.recv()
        held = []
        for _ in range(LOOKS):
            skip(loop, samples // LOOKS)
            processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            held.append(sum(harness.kilobytes(Path(f"/proc/{pid}/status"), "RssAnon") for pid in processes))
        connection.send(held)


def main() -> None:
    """Run the bench."""
    parser = harness.parser(__doc__, directory=True)
    parser.add_argument("--documents", type=int, default=5_000_000)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = settings_for(options.directory, options.documents)
    with (
        Contender("stock NeMo's", contend, peer, settings, options.batches) as stock,
        Contender("ours", contend, ours, settings, options.batches) as product,
    ):
        both = {"peer": stock, "ours": product}
        loops = [(name + ending, contender, ending) for ending in WORKERS for name, contender in both.items()]
        seconds = in_turns(loops, options.rounds, 1)
    need = RANKS * max(system.tokens_per_second_per_accelerator or 0 for system in published())
    print(f"{RANKS} ranks of the fastest published system consume {need:,.0f} tokens/s")
    for name, medians in seconds.items():
        rate = options.batches * rules.SEQUENCE_LENGTH / statistics.median(medians)
        of_peer = harness.spread(harness.ratios(medians, seconds[f"peer{name[4:]}"]), ".2f")
        print(f"{name:<8} {rate:12,.0f} tokens/s, {rate / need:6.1f} of that; time / peer's {of_peer}")
    short = settings_for(options.directory, options.documents, SEQ_LENGTH=SHORT, SAMPLES_AVAILABLE=options.samples)
    each = options.samples // LOOKS
    for ending, workers in WORKERS.items():
        with Contender("ours", memory, short, workers, options.samples) as contender:
            held = contender.turn("", 0)
        megabytes = " ".join(f"{one / 1e6:.1f}" for one in held)
        print(f"memory of ours{ending} after each {each:,} samples of {SHORT} tokens [MB]: {megabytes}")


if __name__ == "__main__":
    main()
