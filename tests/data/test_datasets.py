"""The benchmark's data: which sequences are read, and in which order."""

import errno
import mmap
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from built_data import SEQ_LENGTH, built, copy_of, documents, trained_on
from megatron.core.datasets import gpt_dataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from megatron.core.datasets.utils import Split
from nemo.collections.common.tokenizers import AutoTokenizer
from oracle import expected_fingerprint, windows
from saved_tokenizers import edit
from tiny import VOCABULARY, write_tokens
from torch.utils.data import Dataset

from llama31.common.errors import UserError
from llama31.config import paths
from llama31.data import file_arrays, order, token_file
from llama31.data.datasets import FirstSequences, fingerprint, training_set
from llama31.settings import Settings

pytestmark = pytest.mark.usefixtures("rank")


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


def of_megatron(settings: Settings, directory: Path, seed: int = 1) -> Dataset:
    """Megatron's own training set of one pass, with an index that it builds in an empty directory."""
    module = built(settings, seed)
    module.index_mapping_dir = str(directory)
    sizes = [None, 0, 0]
    builder = BlendedMegatronDatasetBuilder(gpt_dataset.GPTDataset, sizes, lambda: True, module.gpt_dataset_config)
    train, _, _ = builder.build()
    return train


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["6 7", "7"])
@pytest.mark.parametrize("limit", [None, 700, 1])
def test_the_order_is_the_beginning_of_megatrons(
    settings: Settings, parts: str, limit: int | None, tmp_path: Path
) -> None:
    settings = replace(settings, train_parts=parts, samples_available=limit)
    theirs = of_megatron(settings, tmp_path / "megatron")
    ours = built(settings)._train_ds
    assert len(ours) == (limit or len(theirs))
    for i in range(len(ours)):
        item = theirs[i]
        assert ours[i].keys() == item.keys()
        for key, value in item.items():
            assert torch.equal(torch.as_tensor(ours[i][key]), torch.as_tensor(value)), f"sequence {i} has other {key}"


def test_documents_of_several_stored_sequences(settings: Settings, tmp_path: Path) -> None:
    """As --split-sentences writes them: Megatron's order is of stored sequences, for all that documents are."""
    settings = copy_of(settings, tmp_path / "data")
    for prefix in [*paths.train_prefixes(settings), paths.validation_prefix(settings)]:
        texts = documents(prefix)
        builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
        for text in texts:
            for start in range(0, len(text), 40):
                builder.add_item(torch.from_numpy(text[start : start + 40].astype(np.int32)))
            builder.end_document()
        builder.finalize(f"{prefix}.idx")
        file = token_file.summary(prefix)
        assert file.documents == len(texts) < file.stored_sequences
    theirs = of_megatron(settings, tmp_path / "megatron")
    module = built(settings)
    ours = module._train_ds
    assert len(ours) == len(theirs)
    for i in range(len(ours)):
        assert torch.equal(ours[i]["tokens"], theirs[i]["tokens"]), f"sequence {i} has other tokens"
    expected = windows(Path(f"{paths.validation_prefix(settings)}.bin"), "<u2", SEQ_LENGTH, settings.eval_samples)
    for item, window in zip(module._validation_ds, expected, strict=False):
        assert item["tokens"].tolist() == window[:-1].tolist()


@pytest.mark.parametrize("parts", ["6 7", "7"])
def test_each_training_sequence_comes_once(settings: Settings, parts: str) -> None:
    settings = replace(settings, train_parts=parts)
    sequences = trained_on(settings)
    texts = [np.concatenate(documents(prefix)) for prefix in paths.train_prefixes(settings)]
    assert len(sequences) == sum((len(text) - 1) // SEQ_LENGTH for text in texts)
    # A sequence's first token is the label of the one before it, so without the last column each token comes once.
    counts = np.bincount(sequences[:, :-1].ravel(), minlength=VOCABULARY)
    there = sum(np.bincount(text, minlength=VOCABULARY) for text in texts)
    assert (counts <= there).all() and (there - counts).sum() <= len(texts) * SEQ_LENGTH


def test_the_order_depends_only_on_the_seed(settings: Settings) -> None:
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
    order.write(tmp_path, [str(prefix)], 16, seed=1, samples=1)
    config = replace(built(settings).gpt_dataset_config, sequence_length=16, path_to_cache=str(tmp_path))
    with pytest.raises(UserError, match=message):
        training_set([str(prefix)], config)[0]


def test_no_id_counts_as_padding(settings: Settings, tmp_path: Path) -> None:
    """The data has no padding. By default, Megatron masks the loss at the pad token's id and replaces the id by 0."""
    plain = built(settings)
    comma = edit(Path(shutil.copytree(settings.tokenizer_path, tmp_path / "comma")), pad_token=",")
    padding = built(replace(settings, tokenizer_path=str(comma)))
    number = padding.tokenizer.pad_id
    assert number == plain.tokenizer.token_to_id(",")
    for ours, theirs in ((padding._train_ds, plain._train_ds), (padding._validation_ds, plain._validation_ds)):
        items = [ours[i] for i in range(settings.eval_samples)]
        assert sum(int((item["tokens"] == number).sum()) for item in items) > 10, "the data has that id"
        for i, item in enumerate(items):
            assert all(torch.equal(item[name], theirs[i][name]) for name in ("tokens", "labels", "loss_mask"))
            assert item["loss_mask"].all()


def test_the_tokenizers_ids_are_counted_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's libraries take 30 ms for those of Llama 3.1, longer than a sequence takes to read."""
    train = built(settings)._train_ds
    counted = []
    stock = AutoTokenizer.vocab_size.fget
    monkeypatch.setattr(AutoTokenizer, "vocab_size", property(lambda tokenizer: counted.append(1) or stock(tokenizer)))
    for number in range(20):
        train[number]
    assert 1 <= len(counted) <= len(settings.train_parts.split()), "once for each part"


# A file system that maps no files


@pytest.fixture
def no_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some mounts of FUSE and WekaFS: numpy and the product map by this function."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(mmap, "mmap", refuse)


def test_the_same_sequences_without_maps(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    mapped = built(settings)
    expected = [items(mapped._train_ds), items(mapped._validation_ds)]
    request.getfixturevalue("no_maps")
    read = built(replace(settings, tmp_npy_index=str(tmp_path / "another index")))
    assert [items(read._train_ds), items(read._validation_ds)] == expected
    assert isinstance(read._validation_ds._tokens, file_arrays.ReadArray)


def items(data: Dataset) -> list[list[int]]:
    return [data[number]["tokens"].tolist() for number in range(len(data))]


def test_what_is_read_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads of a file server may be short; Megatron's own reader takes them for whole."""
    file = tmp_path / "file"
    numbers = np.arange(1000, dtype="<i4")
    numbers.tofile(file)
    stock = os.preadv
    monkeypatch.setattr(os, "preadv", lambda of, views, at: stock(of, [views[0][:700]], at))
    assert file_arrays.read(file, "<i4", 900, 400).tolist() == list(range(100, 1000))
    with pytest.raises(UserError, match=r"ends within 1,000 numbers at byte 4$"):
        file_arrays.read(file, "<i4", 1000, 4)
