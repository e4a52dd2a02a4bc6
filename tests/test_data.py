"""The benchmark's data: what is read, in which order, and the index that the order is kept in."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fiddle
import nemo_run as run
import numpy as np
import pytest
import torch
from megatron.core.datasets import gpt_dataset
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split
from nemo.collections.common.tokenizers import AutoTokenizer
from one_rank import one_rank
from oracle import expected_fingerprint, windows
from runs import REPOSITORY
from tiny import VOCABULARY, write_tokens

from llama31 import checks, paths, recipe
from llama31.data import index
from llama31.data.datasets import FirstSequences, TrainingSequences, fingerprint
from llama31.data.module import BenchmarkData
from llama31.errors import UserError
from llama31.estimates import disk
from llama31.model.device import Backend
from llama31.resolve import from_dict
from llama31.settings import Settings

SEQ_LENGTH = 48
CPU = Backend("cpu", transformer_engine=False)


@pytest.fixture(scope="module", autouse=True)
def rank() -> Iterator[None]:
    with one_rank():
        yield


@pytest.fixture
def settings(tiny_data: dict[str, str], tmp_path: Path) -> Settings:
    values = {name.lower(): value for name, value in tiny_data.items()}
    return from_dict({**values, "seq_length": SEQ_LENGTH, "gbs": 8, "eval_samples": 30, "job_dir": str(tmp_path)})


def built(settings: Settings, seed: int = 1) -> BenchmarkData:
    """The recipe's data module with its datasets."""
    tokenizer = run.Config(AutoTokenizer, pretrained_model_name=settings.tokenizer_path)
    module = fiddle.build(recipe.data(settings, CPU, seed, tokenizer))
    module.build()
    return module


def trained_on(settings: Settings, seed: int = 1) -> np.ndarray:
    """All training sequences in their order, [sequences, seq_length + 1]."""
    train = built(settings, seed)._train_ds
    items = [train[i] for i in range(len(train))]
    return np.stack([np.append(item["tokens"], item["labels"][-1]) for item in items])


def documents(prefix: Path) -> list[np.ndarray]:
    """Documents of a token file, by Megatron's reader; what it gives is unmapped with it, so they are copies."""
    return [document.copy() for document in IndexedDataset(str(prefix))]


def copy_of(settings: Settings, directory: Path) -> Settings:
    """The same settings for a copy of the data."""
    directory.mkdir()
    for path in Path(settings.preprocessed_path).iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    return replace(settings, preprocessed_path=str(directory))


# Validation


def test_validation_is_the_beginning_of_the_file_in_its_order(settings: Settings) -> None:
    data = built(settings)._validation_ds
    bin_file = Path(f"{paths.validation_prefix(settings)}.bin")
    expected = windows(bin_file, "<u2", SEQ_LENGTH, settings.eval_samples)
    for item, window in zip(data, expected, strict=False):
        assert item["tokens"].tolist() == window[:-1].tolist()
        assert item["labels"].tolist() == window[1:].tolist()
        assert item["loss_mask"].tolist() == [1.0] * SEQ_LENGTH
        assert item["position_ids"].tolist() == list(range(SEQ_LENGTH))
    total = sum(int(data[i]["fingerprint"]) for i in range(settings.eval_samples))
    assert f"{total % 2**64:016x}" == expected_fingerprint(expected)


def test_what_fills_the_last_batch_counts_nowhere(settings: Settings) -> None:
    data = built(settings)._validation_ds
    assert len(data) == 32, "30 sequences in batches of 8"
    for item in (data[30], data[31]):
        assert not item["loss_mask"].any()
        assert item["fingerprint"] == 0
        assert item["tokens"].shape == item["labels"].shape == (SEQ_LENGTH,)


@pytest.mark.parametrize(("vocabulary", "dtype"), [(512, "<u2"), (70_000, "<i4")])
def test_sequences_run_across_documents_to_the_last_token(tmp_path: Path, vocabulary: int, dtype: str) -> None:
    ids = np.random.default_rng(0).integers(vocabulary, size=3 * 16 + 1).tolist()
    prefix = write_tokens(tmp_path / "a", [ids[:1], ids[1:16], ids[16:17], ids[17:40], ids[40:]], vocabulary)
    data = FirstSequences(prefix, 16, samples=3, length=3, vocab_size=vocabulary)
    for item, window in zip(data, windows(Path(f"{prefix}.bin"), dtype, 16, 3), strict=False):
        assert [*item["tokens"].tolist(), int(item["labels"][-1])] == window.tolist()
    with pytest.raises(UserError, match=r"a\.bin: holds 3 sequences of 16 tokens, fewer than EVAL_SAMPLES=4"):
        FirstSequences(prefix, 16, samples=4, length=4, vocab_size=vocabulary)


def test_sequences_are_cut_as_megatron_cuts_an_unshuffled_file(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpt_dataset, "_build_document_index", lambda ids, *_: ids.astype(np.int32))
    monkeypatch.setattr(gpt_dataset, "_build_shuffle_index", lambda _, size, __: np.arange(size))
    prefix = paths.validation_prefix(settings)
    file = IndexedDataset(str(prefix))
    config = built(settings).gpt_dataset_config
    config.path_to_cache = settings.job_dir
    everything = np.arange(len(file), dtype=np.int32)
    theirs = gpt_dataset.GPTDataset(file, str(prefix), everything, None, Split.train, config)
    ours = FirstSequences(prefix, SEQ_LENGTH, len(theirs), len(theirs), VOCABULARY)
    with pytest.raises(UserError, match="fewer than EVAL_SAMPLES"):
        FirstSequences(prefix, SEQ_LENGTH, len(theirs) + 1, len(theirs) + 1, VOCABULARY)
    for i in range(len(theirs)):
        for key, value in theirs[i].items():
            assert torch.equal(ours[i][key], value), f"sequence {i} has other {key} than Megatron's"


def test_the_fingerprint_tells_sequences_apart() -> None:
    ids = np.arange(100)
    assert fingerprint(ids) == fingerprint(ids.astype(np.uint16)), "the ids count, not their type"
    others = [ids[::-1], ids[:-1], np.append(ids, 0), np.where(ids == 7, 8, ids)]
    assert len({fingerprint(ids), *map(fingerprint, others)}) == 5


# Training


@pytest.mark.parametrize("parts", ["6 7", "7"])
def test_each_training_sequence_comes_once(settings: Settings, parts: str) -> None:
    train = built(replace(settings, train_parts=parts))._train_ds
    single = not isinstance(train, BlendedDataset)
    prefixes = paths.train_prefixes(replace(settings, train_parts=parts))
    for part, prefix in enumerate(prefixes):
        texts = documents(prefix)
        dataset = train if single else train.datasets[part]
        assert sorted(dataset.document_index) == list(range(len(texts)))
        assert sorted(dataset.shuffle_index) == list(range(len(dataset)))
        # Put back in the order that they were cut in, sequences give the shuffled documents one after another.
        ordered = [dataset[int(i)] for i in np.argsort(dataset.shuffle_index)]
        stream = np.concatenate([texts[i] for i in dataset.document_index])
        assert len(dataset) == (len(stream) - 1) // SEQ_LENGTH
        assert np.array_equal(torch.cat([item["tokens"] for item in ordered]), stream[: len(ordered) * SEQ_LENGTH])
        labels = torch.cat([item["labels"] for item in ordered])
        assert np.array_equal(labels, stream[1 : len(ordered) * SEQ_LENGTH + 1])
        assert all(item["loss_mask"].all() for item in ordered)
    if not single:
        drawn = list(zip(train.dataset_index.tolist(), train.dataset_sample_index.tolist(), strict=True))
        assert sorted(drawn) == [(part, i) for part in range(2) for i in range(len(train.datasets[part]))]


def test_the_order_depends_on_the_seed_alone(settings: Settings) -> None:
    order = trained_on(settings)
    assert np.array_equal(trained_on(replace(settings, gbs=12, mbs=3, eval_samples=7)), order)
    other = trained_on(settings, seed=2)
    assert not np.array_equal(other, order)
    assert len(other) == len(order)


def test_the_order_is_the_same_from_a_new_index_and_from_the_old(settings: Settings) -> None:
    order = trained_on(settings)
    (directory,) = paths.index_root(settings).iterdir()
    files = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert np.array_equal(trained_on(settings), order)
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == files, "the index must be used again"
    again = replace(settings, tmp_npy_index=f"{settings.job_dir}/elsewhere")
    assert np.array_equal(trained_on(again), order)
    assert paths.index_root(again).is_dir()


def test_rewritten_data_never_meets_an_old_index(settings: Settings, tmp_path: Path) -> None:
    settings = copy_of(settings, tmp_path / "data")
    trained_on(settings)
    prefix = paths.train_prefixes(settings)[0]
    texts = documents(prefix)
    write_tokens(prefix, [text.tolist() for text in texts[: len(texts) // 2]])
    shorter = trained_on(settings)
    tokens = [sum(map(len, documents(path))) for path in paths.train_prefixes(settings)]
    assert len(shorter) == sum((count - 1) // SEQ_LENGTH for count in tokens)
    assert len(list(paths.index_root(settings).iterdir())) == 2


@pytest.mark.parametrize("position", [0, 1, 16], ids=["first", "second", "last"])
@pytest.mark.parametrize("wrong", [VOCABULARY, -1])
def test_ids_that_the_tokenizer_lacks_are_refused(
    settings: Settings, tmp_path: Path, wrong: int, position: int
) -> None:
    ids = [5] * 17
    ids[position] = wrong
    prefix = write_tokens(tmp_path / "a", [ids], vocabulary=70_000)
    message = rf"a: holds token id {wrong}, .* vocabulary has {VOCABULARY} ids; set TOKENIZER_PATH"
    with pytest.raises(UserError, match=message) as failure:
        FirstSequences(prefix, 16, 1, 1, VOCABULARY)[0]
    assert len(failure.value.lines) == 1
    config = replace(built(settings).gpt_dataset_config, sequence_length=16, path_to_cache=str(tmp_path))
    one = np.arange(1, dtype=np.int32)
    with pytest.raises(UserError, match=message):
        TrainingSequences(IndexedDataset(str(prefix)), str(prefix), one, None, Split.train, config)[0]


# The index

IN_BUILDING = """
import os, sys
from pathlib import Path
from llama31.data import index
with index.building(Path(sys.argv[1])) as partial:
    (partial / "document_index.npy").write_bytes(b"half of it")
    print("building", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def builder() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts another process that is in the midst of building the index; a line on its input lets it finish."""
    started: list[subprocess.Popen[str]] = []

    def start(directory: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", IN_BUILDING, str(directory)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout and process.stdout.readline() == "building\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def directory_of(settings: Settings, seed: int = 1) -> Path:
    prefixes = map(str, paths.train_prefixes(settings))
    return index.location(paths.index_root(settings), prefixes, settings.seq_length, seed)


def test_a_builder_that_is_killed_leaves_nothing_to_be_read(
    settings: Settings, builder: Callable[[Path], subprocess.Popen[str]]
) -> None:
    process = builder(directory_of(settings))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not directory_of(settings).exists()
    assert len(trained_on(settings))
    assert len(list(directory_of(settings).iterdir())) == 11, "4 files for each part, 3 for the blend"


def test_of_two_builders_the_first_to_end_wins(
    settings: Settings, builder: Callable[[Path], subprocess.Popen[str]]
) -> None:
    process = builder(directory_of(settings))
    order = trained_on(settings)
    process.communicate("\n")
    assert process.returncode == 0
    assert [path.name for path in paths.index_root(settings).iterdir()] == [directory_of(settings).name]
    assert np.array_equal(trained_on(settings), order)


def test_a_full_disk_is_one_line_and_leaves_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"/index: the training index cannot be written: No space left") as failure:
        built(settings)
    assert len(failure.value.lines) == 1
    assert not list(paths.index_root(settings).iterdir())


def test_a_place_that_is_no_directory_is_one_line(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"/file: the training index cannot be written: Not a directory; TMP_NPY_INDEX"):
        built(replace(settings, tmp_npy_index=str(tmp_path / "file")))


@pytest.mark.parametrize("parts", ["6 7", "7"])
def test_the_plan_knows_the_size_of_the_index(settings: Settings, parts: str) -> None:
    settings = replace(settings, train_parts=parts)
    built(settings)
    arrays = [np.load(path) for path in paths.index_root(settings).glob("*/*.npy")]
    data = checks.check(settings)
    assert disk.training_index(settings, data) == sum(array.nbytes for array in arrays) > 0


def test_an_index_is_for_one_order_of_one_state_of_the_data(settings: Settings, tmp_path: Path) -> None:
    settings = copy_of(settings, tmp_path / "data")
    parts = list(map(str, paths.train_prefixes(settings)))

    def name(prefixes: list[str] = parts, seq_length: int = SEQ_LENGTH, seed: int = 1) -> Path:
        return index.location(tmp_path, prefixes, seq_length, seed)

    first = name()
    assert name() == first
    assert len({first, name(parts[::-1]), name(parts[:1]), name(seq_length=8), name(seed=2)}) == 5
    os.utime(f"{parts[0]}.idx", ns=(0, 0))
    assert name() != first
