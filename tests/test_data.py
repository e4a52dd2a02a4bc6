"""The benchmark's data: what is read, in which order, and the index that the order is kept in."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import fiddle
import nemo_run as run
import numpy as np
import pytest
import torch
from megatron.core.datasets import gpt_dataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split
from nemo.collections.common.tokenizers import AutoTokenizer
from one_rank import one_rank
from oracle import expected_fingerprint, windows
from tiny import VOCABULARY, write_tokens
from torch.utils.data import Dataset

from llama31 import checks, paths, recipe
from llama31.corpus import manifest, token_file
from llama31.corpus.files import sha256_of
from llama31.data import index, order
from llama31.data.datasets import FirstSequences, fingerprint, training_set
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


def of_megatron(settings: Settings, directory: Path, seed: int = 1) -> Dataset:
    """Megatron's own training set of one pass, with an index that it builds in an empty directory."""
    module = built(settings, seed)
    module.index_mapping_dir = str(directory)
    sizes = [None, 0, 0]
    builder = BlendedMegatronDatasetBuilder(gpt_dataset.GPTDataset, sizes, lambda: True, module.gpt_dataset_config)
    train, _, _ = builder.build()
    return train


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


@pytest.mark.parametrize("parts", ["6 7", "7"])
def test_each_training_sequence_comes_once(settings: Settings, parts: str) -> None:
    settings = replace(settings, train_parts=parts)
    order = trained_on(settings)
    texts = [np.concatenate(documents(prefix)) for prefix in paths.train_prefixes(settings)]
    assert len(order) == sum((len(text) - 1) // SEQ_LENGTH for text in texts)
    # A sequence's first token is the label of the one before it, so without the last column each token comes once.
    counts = np.bincount(order[:, :-1].ravel(), minlength=VOCABULARY)
    there = sum(np.bincount(text, minlength=VOCABULARY) for text in texts)
    assert (counts <= there).all() and (there - counts).sum() <= len(texts) * SEQ_LENGTH


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
    order.write(tmp_path, [str(prefix)], 16, seed=1, samples=1)
    config = replace(built(settings).gpt_dataset_config, sequence_length=16, path_to_cache=str(tmp_path))
    with pytest.raises(UserError, match=message):
        training_set([str(prefix)], config)[0]


# The index


def index_of(settings: Settings, seed: int = 1) -> index.Index:
    """What a run's index is made of."""
    root, prefixes = paths.index_root(settings), paths.train_prefixes(settings)
    return index.Index.of(root, prefixes, settings.seq_length, seed, limit=settings.sample_limit)


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[index.Index], tuple[int, Callable[[], None]]]]:
    """Forks a process that has all but published an index; gives its id, and what lets it finish and waits for that."""
    started: list[multiprocessing.process.BaseProcess] = []

    def start(wanted: index.Index) -> tuple[int, Callable[[], None]]:
        ours, theirs = multiprocessing.Pipe()

        def build() -> None:
            with index.building(wanted.directory) as partial:
                index.fill(partial, wanted)
                theirs.send("built")
                theirs.recv()

        process = multiprocessing.get_context("fork").Process(target=build)
        process.start()
        started.append(process)
        assert ours.recv() == "built"

        def finish() -> None:
            ours.send("finish")
            process.join()
            assert process.exitcode == 0

        return process.pid or 0, finish

    yield start
    for process in started:
        process.kill()
        process.join()


Builder = Callable[[index.Index], tuple[int, Callable[[], None]]]


def test_a_builder_that_is_killed_leaves_nothing_to_be_read(settings: Settings, builder: Builder) -> None:
    wanted = index_of(settings)
    pid, _ = builder(wanted)
    os.kill(pid, signal.SIGKILL)
    assert not wanted.directory.exists()
    (left,) = paths.index_root(settings).iterdir()
    os.utime(left, (0, 0))
    assert len(trained_on(settings))
    assert list(paths.index_root(settings).iterdir()) == [wanted.directory], "an hour later, what it left goes"
    assert len(list(wanted.directory.iterdir())) == 7, "2 files for each part, 2 for the blend, 1 that says so"


def test_of_two_builders_the_first_to_end_wins(settings: Settings, builder: Builder) -> None:
    wanted = index_of(settings)
    _, finish = builder(wanted)
    before = trained_on(settings)
    finish()
    assert list(paths.index_root(settings).iterdir()) == [wanted.directory]
    assert np.array_equal(trained_on(settings), before)


def test_what_is_published_late_is_waited_for(settings: Settings, builder: Builder) -> None:
    wanted = index_of(settings)
    _, finish = builder(wanted)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(index.wait_for, wanted.directory)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        finish()
        assert waiting.result().of["samples"] == wanted.samples


def test_the_wait_is_bounded(settings: Settings) -> None:
    wanted = index_of(settings)
    message = r"/index/\w{16}: the training index is not seen on .* 0\.2 s after .*; TMP_NPY_INDEX must name"
    with pytest.raises(UserError, match=message):
        index.wait_for(wanted.directory, deadline=0.2)
    index.ensure(wanted)
    seen = next(wanted.directory.glob("*.ends.npy"))
    os.truncate(seen, 10)
    with pytest.raises(UserError, match=message):
        index.wait_for(wanted.directory, deadline=0.2)


def test_eight_processes_at_once_share_one_index(settings: Settings) -> None:
    wanted = index_of(settings)
    with multiprocessing.get_context("fork").Pool(8) as pool:
        found = pool.map(index.ensure, [wanted] * 8, chunksize=1)
    assert len({json.dumps(asdict(contents)) for contents, _ in found}) == 1
    assert list(paths.index_root(settings).iterdir()) == [wanted.directory]
    assert index.ensure(wanted) == (found[0][0], False)


@pytest.mark.parametrize("damage", ["a byte", "cut short", "removed", "its list"])
def test_a_damaged_index_is_set_aside_and_built_anew(
    settings: Settings, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = trained_on(settings)
    directory = index_of(settings).directory
    file = directory / (index.CONTENTS if damage == "its list" else order.DATASET_INDEX)
    content = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "cut short" else content[:-1] + bytes([content[-1] ^ 1]))
    assert np.array_equal(trained_on(settings), before)
    assert (
        f"{directory}: {file.name}: not as written: set aside as {directory.name}.damaged-" in capsys.readouterr().out
    )
    assert file.read_bytes() == content
    assert index.ensure(index_of(settings))[1] is False


def rewrite(settings: Settings) -> Path:
    """Writes the tokens of a part anew; the size and the time of change stay."""
    path = token_file.bin_path(paths.train_prefixes(settings)[0])
    status = path.stat()
    path.write_bytes(np.fromfile(path, dtype="<u2")[::-1].tobytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return path


def test_data_written_anew_under_its_index_is_refused(settings: Settings, tmp_path: Path) -> None:
    settings = copy_of(settings, tmp_path / "data")
    trained_on(settings)
    path = rewrite(settings)
    directory = index_of(settings).directory
    with pytest.raises(UserError, match=rf"{path}: was written anew after {directory} was .*; if so, remove that"):
        built(settings)
    shutil.rmtree(directory)
    assert len(trained_on(settings))


def test_data_with_a_manifest_is_known_by_its_content(settings: Settings, tmp_path: Path) -> None:
    settings = replace(copy_of(settings, tmp_path / "data"), job_dir=str(tmp_path / "runs"))
    for prefix in paths.train_prefixes(settings):
        file = token_file.summary(prefix)
        sha256 = [sha256_of(path(prefix)) for path in (token_file.bin_path, token_file.idx_path)]
        manifest.write(
            prefix,
            manifest.Manifest(
                [], [], [], "text", "", VOCABULARY, False, None, file.token_type.name, file.documents, file.tokens, 0,
                *sha256, {},
            ),
        )  # fmt: skip
    before = trained_on(settings)
    elsewhere = copy_of(settings, tmp_path / "elsewhere")
    assert index_of(elsewhere).directory == index_of(settings).directory
    assert np.array_equal(trained_on(elsewhere), before)
    path = rewrite(elsewhere)
    os.utime(path)
    with pytest.raises(UserError, match=rf"{path}: was written anew after"):
        built(elsewhere)
    assert np.array_equal(trained_on(settings), before)


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
@pytest.mark.parametrize("limit", [None, 200])
def test_the_plan_knows_the_size_of_the_index(settings: Settings, parts: str, limit: int | None) -> None:
    settings = replace(settings, train_parts=parts, samples_available=limit)
    built(settings)
    arrays = [np.load(path) for path in paths.index_root(settings).glob("*/*.npy")]
    data = checks.check(settings)
    assert disk.training_index(settings, data) == pytest.approx(sum(array.nbytes for array in arrays), rel=0.03)


def test_an_index_is_for_one_order_of_one_state_of_the_data(settings: Settings, tmp_path: Path) -> None:
    settings = copy_of(settings, tmp_path / "data")
    first = index_of(settings)
    others = [
        index_of(settings, seed=2),
        index_of(replace(settings, train_parts="7 6")),
        index_of(replace(settings, train_parts="6")),
        index_of(replace(settings, seq_length=8)),
        index_of(replace(settings, samples_available=9)),
    ]
    assert len({wanted.directory for wanted in (first, *others)}) == 6
    assert index_of(replace(settings, samples_available=10**9)).directory == first.directory, "the data has no more"
    os.utime(token_file.idx_path(paths.train_prefixes(settings)[0]), ns=(0, 0))
    assert index_of(settings).directory != first.directory
