"""Speed and memory of the loader alone, beside stock NeMo's, and what the fastest published system takes.

    python3 -m dev.bench.loader DIRECTORY [--documents 5000000] [--batches 2000] [--samples 1000000] [--rounds 3]

Makes a tokenizer of as many ids as Llama 3.1's, and a token file whose .bin is a hole: its pages come from the kernel,
as those of a file in its cache do. Then one rank's loader reads batches of one sequence of the benchmark's length,
checks and collates them, and nothing else:

    ours       the product's, in the rank's own process, as on a CPU
    ours, 2    with 2 worker processes, as on a GPU
    peer       stock NeMo's data module over Megatron's dataset and index, in the rank's own process
    peer, 2    with 2 worker processes

In turns. Prints the median tokens/s, with the ratio to the peer's of the same round, and to what 8 ranks of the fastest
published system take together. At the end ours runs through so many short sequences, to show whether memory grows,
with workers too.
"""

import argparse
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

from dev.bench import random_data
from dev.bench.contender import Contender, in_turns, ratios, spread, timed
from dev.bench.index import kilobytes, write_data
from llama31 import rules
from llama31.config import paths
from llama31.config.resolve import resolve
from llama31.data import token_file
from llama31.report.published import published
from llama31.settings import Settings

RANKS = 8  # of a node
SHORT = 64  # tokens, where memory is looked at
LOOKS = 10  # at the memory
WORKERS = {"": 0, ", 2": 2}


def settings_for(directory: Path, documents: int, **more: object) -> Settings:
    """Settings of one rank on a token file of so many documents."""
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
    """The recipe's data module, with its index."""
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
    """NeMo's, for one pass over the data; masks, which it makes where Transformer Engine is missing, are left out."""
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
    """The training batches of a data module, in their order."""
    module.num_workers, module.persistent_workers, module.pin_memory = workers, workers > 0, False
    module.trainer = SimpleNamespace(global_step=0)
    return iter(module.data_sampler.transform_dataloader(module.train_dataloader()))


def contend(connection: Connection, make: Callable[[Settings], Any], settings: Settings, at_once: int) -> None:
    """A contender whose steps are so many batches."""
    from llama31.model.cpu_backend import one_rank

    with one_rank():
        module = make(settings)
        loops = {ending: batches(module, workers) for ending, workers in WORKERS.items()}
        timed(connection, {ending: partial(skip, loop, at_once) for ending, loop in loops.items()})


def skip(loop: Iterator[Any], count: int) -> None:
    """Reads so many batches."""
    for _ in itertools.islice(loop, count):
        pass


def memory(connection: Connection, settings: Settings, workers: int, samples: int) -> None:
    """Sends the memory that this process and its workers hold for themselves, after each tenth of so many samples."""
    from llama31.model.cpu_backend import one_rank

    with one_rank():
        loop = batches(ours(settings), workers)
        connection.send("ready")
        connection.recv()
        held = []
        for _ in range(LOOKS):
            skip(loop, samples // LOOKS)
            processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            held.append(sum(kilobytes(Path(f"/proc/{pid}/status"), "RssAnon") for pid in processes))
        connection.send(held)


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--documents", type=int, default=5_000_000)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = settings_for(options.directory, options.documents)
    contenders = {
        "peer": Contender("stock NeMo's", contend, peer, settings, options.batches),
        "ours": Contender("ours", contend, ours, settings, options.batches),
    }
    try:
        loops = [(name + ending, one, ending) for ending in WORKERS for name, one in contenders.items()]
        seconds = in_turns(loops, options.rounds, 1)
    finally:
        for contender in contenders.values():
            contender.end()
    need = RANKS * max(system.tokens_per_second_per_accelerator or 0 for system in published())
    print(f"{RANKS} ranks of the fastest published system take {need:,.0f} tokens/s")
    for name, medians in seconds.items():
        rate = options.batches * rules.SEQUENCE_LENGTH / statistics.median(medians)
        of_peer = spread(ratios(medians, seconds[f"peer{name[4:]}"]), ".2f")
        print(f"{name:<8} {rate:12,.0f} tokens/s, {rate / need:6.1f} of that; time {of_peer} of peer's")
    short = settings_for(options.directory, options.documents, SEQ_LENGTH=SHORT, SAMPLES_AVAILABLE=options.samples)
    each = options.samples // LOOKS
    for ending, workers in WORKERS.items():
        looked_at = Contender("ours", memory, short, workers, options.samples)
        held = looked_at.turn("", 0)
        looked_at.end()
        megabytes = " ".join(f"{one / 1e6:.1f}" for one in held)
        print(f"memory of ours{ending} after each {each:,} samples of {SHORT} tokens [MB]: {megabytes}")


if __name__ == "__main__":
    main()
