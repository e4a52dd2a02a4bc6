"""The training index: built once, shared by all that need it, refused or rebuilt when it has changed.

Takes about 25 s, 15 of them for the two Slurm nodes.
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from built_data import SEQ_LENGTH, built, copy_of, trained_on
from cluster import Cluster
from runs import REPOSITORY, arguments, environment
from tiny import VOCABULARY, write_tokens

from llama31.cli import build_index
from llama31.common.errors import UserError
from llama31.common.files import sha256_of
from llama31.config import paths
from llama31.config.resolve import resolve
from llama31.data import index, order, token_file, token_manifest
from llama31.estimates import disk
from llama31.launch import provenance
from llama31.plan import validate
from llama31.plan.plan import Plan
from llama31.settings import Settings

pytestmark = pytest.mark.usefixtures("rank")


def index_of(settings: Settings, seed: int = 1) -> index.Index:
    """Inputs of a run's index."""
    root, prefixes = paths.index_root(settings), paths.train_prefixes(settings)
    return index.Index.of(root, prefixes, settings.seq_length, seed, limit=settings.sample_limit)


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[index.Index], tuple[int, Callable[[], None]]]]:
    """Fork a process that is about to publish an index; return its id, and a function to finish it."""
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
    message = r"/index/\w{16}: the training index is not visible on .* 0\.2 s after .*; TMP_NPY_INDEX must be"
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
def test_a_damaged_index_is_set_aside_and_rebuilt(
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
    assert f"{directory}: {file.name}: not as written: renamed {directory.name}.damaged-" in capsys.readouterr().out
    assert file.read_bytes() == content
    assert index.ensure(index_of(settings))[1] is False


def rewrite(settings: Settings) -> Path:
    """Rewrite the tokens of a part, keeping its size and modification time."""
    path = token_file.bin_path(paths.train_prefixes(settings)[0])
    status = path.stat()
    path.write_bytes(np.fromfile(path, dtype="<u2")[::-1].tobytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "files", [{"../outside": [0, ""]}, {"x": 1}, {"x": [1]}, {"x": ["1", ""]}, {"x": [-1, ""]}, {"": [0, ""]}]
)
def test_a_list_of_other_files_is_not_followed(files: dict[str, object], settings: Settings) -> None:
    """Nodes with disks of their own write the files that it names."""
    wanted = index_of(settings)
    wanted.directory.mkdir(parents=True)
    (wanted.directory / index.CONTENTS).write_text(json.dumps({"files": files, "probes": {}, "of": {}}))
    contents, built_again = index.ensure(wanted)
    assert built_again and all("/" not in name for name in contents.files)


def test_data_rewritten_under_its_index_is_refused(settings: Settings, tmp_path: Path) -> None:
    settings = copy_of(settings, tmp_path / "data")
    trained_on(settings)
    path = rewrite(settings)
    directory = index_of(settings).directory
    with pytest.raises(UserError, match=rf"{path}: changed after {directory} was .*; if it is right, remove that"):
        built(settings)
    shutil.rmtree(directory)
    assert len(trained_on(settings))


def test_data_with_a_manifest_is_known_by_its_content(settings: Settings, tmp_path: Path) -> None:
    settings = replace(copy_of(settings, tmp_path / "data"), job_dir=str(tmp_path / "runs"))
    for prefix in paths.train_prefixes(settings):
        file = token_file.summary(prefix)
        sha256 = [sha256_of(path(prefix)) for path in (token_file.bin_path, token_file.idx_path)]
        token_manifest.write(
            prefix,
            token_manifest.TokenManifest(
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
    with pytest.raises(UserError, match=rf"{path}: changed after"):
        built(elsewhere)
    assert np.array_equal(trained_on(settings), before)
    file = token_file.idx_path(paths.train_prefixes(settings)[1])
    content = bytearray(file.read_bytes())
    content[token_file.HEADER.size] ^= 1  # of the first document's length
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file}: not what .*_7_text_document\.manifest\.json describes;"):
        index.ensure(index_of(settings, seed=2))
    assert len(list(paths.index_root(settings).iterdir())) == 1


def test_a_full_disk_is_one_line_and_leaves_nothing(settings: Settings, small_disk: Path) -> None:
    full = replace(settings, tmp_npy_index=str(small_disk / "index"))
    (small_disk / "others").write_bytes(bytes(shutil.disk_usage(small_disk).free - (8 << 10)))
    with pytest.raises(UserError, match=r"/index: the training index cannot be written: No space left") as failure:
        built(full)
    assert len(failure.value.lines) == 1
    assert not list(paths.index_root(full).iterdir())


def test_a_place_that_is_no_directory_is_one_line(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"/file: the training index cannot be written: Not a directory; set TMP_NPY_INDEX to another"
    ):
        built(replace(settings, tmp_npy_index=str(tmp_path / "file")))


@pytest.mark.parametrize("parts", ["6 7", "7"])
@pytest.mark.parametrize("limit", [None, 200])
def test_the_plan_knows_the_size_of_the_index(settings: Settings, parts: str, limit: int | None) -> None:
    settings = replace(settings, train_parts=parts, samples_available=limit)
    built(settings)
    arrays = [np.load(path) for path in paths.index_root(settings).glob("*/*.npy")]
    data = validate.check(settings)
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


@pytest.fixture
def with_a_short_part(settings: Settings, tmp_path: Path) -> Settings:
    """Settings for data whose part 7 is one token short of a sequence."""
    settings = copy_of(settings, tmp_path / "data")
    write_tokens(paths.train_prefixes(settings)[1], [[1] * 20, [2] * (SEQ_LENGTH - 20)])
    return settings


@pytest.mark.parametrize("parts", ["6 7", "7 6"])
def test_a_part_shorter_than_a_sequence_is_skipped(with_a_short_part: Settings, parts: str) -> None:
    settings, without = (replace(with_a_short_part, train_parts=value) for value in (parts, "6"))
    assert index_of(settings) == index_of(without)
    assert np.array_equal(trained_on(settings), trained_on(without))
    assert list(paths.index_root(settings).iterdir()) == [index_of(without).directory]
    data = validate.check(settings)
    assert disk.training_index(settings, data) == disk.training_index(without, validate.check(without))


def test_a_skipped_part_is_in_plan_index_and_record(
    usual: dict[str, str], with_a_short_part: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = with_a_short_part
    given = {**usual, "SEQ_LENGTH": SEQ_LENGTH, "SEEDS": 1, "PREPROCESSED_PATH": settings.preprocessed_path}
    build_index.index(arguments(given))
    skipped = f"{token_file.bin_path(paths.train_prefixes(settings)[1])}: skipped: a sequence of SEQ_LENGTH=48 takes 49"
    first, _ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{skipped} tokens, it has 48; the order of the other parts is the same as without it")
    resolved = resolve(arguments(given), {})
    plan = Plan(resolved, validate.check(resolved.settings), [])
    assert first in plan.text() and first in plan.summary()
    assert provenance.describe(plan, [], [], {})["skipped_parts"] == [first]


def test_no_part_with_a_sequence_is_one_line(usual: dict[str, str], with_a_short_part: Settings) -> None:
    settings = replace(with_a_short_part, train_parts="7")
    given = {**usual, "SEQ_LENGTH": SEQ_LENGTH, "SEEDS": 1, "PREPROCESSED_PATH": settings.preprocessed_path}
    with pytest.raises(
        UserError, match=r"^SEQ_LENGTH=48: the training data holds no .*; SEQ_LENGTH=47 with GBS=1 works$"
    ):
        build_index.index(arguments({**given, "TRAIN_PARTS": 7}))
    with pytest.raises(UserError, match=r"^SEQ_LENGTH=48: no part holds a sequence of that length: .*en_7_text_docum"):
        index_of(settings)


@pytest.mark.parametrize("parts", ["6 7", "7"])
def test_megatrons_helper_never_gets_an_empty_part(
    with_a_short_part: Settings, parts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("build_exhaustive_blending_indices", "build_sample_idx"):
        monkeypatch.setattr(order.helpers, name, lambda *_: pytest.fail("it would write outside its arrays"))
    prefixes = [str(prefix) for prefix in paths.train_prefixes(replace(with_a_short_part, train_parts=parts))]
    with pytest.raises(AssertionError, match="a part without a sequence of 48"):
        order.write(tmp_path, prefixes, SEQ_LENGTH, seed=1, samples=1)


# python3 -m llama31 index


@pytest.mark.slow
def test_the_index_command_builds_the_index(usual: dict[str, str], settings: Settings) -> None:
    given = arguments({**usual, "SEQ_LENGTH": SEQ_LENGTH, "SEEDS": "1 2", "NEXP": 2, "JOB_DIR": settings.job_dir})
    command = [sys.executable, "-m", "llama31", "index", *given]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    wanted = [index_of(settings, seed) for seed in (1, 2)]
    for seed, line in enumerate(done.stdout.splitlines(), start=1):
        expected = wanted[seed - 1]
        start = f"{expected.directory}: {expected.samples:,} sequences in the order of seed {seed}, "
        assert re.fullmatch(re.escape(start) + r"[\d.]+ kB, built in \d+\.\d s", line), line
    before = trained_on(settings)
    shutil.rmtree(wanted[0].directory)
    assert np.array_equal(trained_on(settings), before), "a run builds the same"

    script = (
        "import sys; from llama31.cli import build_index as b; b.index(sys.argv[1:]); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, *given]
    again = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=True)
    *lines, heavy = again.stdout.splitlines()
    assert len(lines) == 2 and all("B, found and checked in " in line for line in lines)
    assert heavy == "False", "a second start imports torch only to train"


def test_without_a_seed_there_is_no_order(usual: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"^SEEDS is empty: .* for example SEEDS=1234$"):
        build_index.index(arguments(usual))
    with pytest.raises(UserError, match=r"^SAMPLES_AVAILABLE=7: less than a step of GBS=8 takes; SAMPLES_AVAILABLE=64"):
        build_index.index(arguments({**usual, "SAMPLES_AVAILABLE": "7"}))


FOUR_BUILDERS = """
import multiprocessing, sys
from llama31.cli import build_index
from llama31.data import order  # imports Megatron once for all of them
context = multiprocessing.get_context("fork")
builders = [context.Process(target=build_index.index, args=(sys.argv[1:],)) for _ in range(4)]
for builder in builders:
    builder.start()
for builder in builders:
    builder.join()
sys.exit(max(abs(builder.exitcode) for builder in builders))
"""


@pytest.mark.slurm
def test_eight_processes_on_two_nodes_build_one_index(
    cluster: Cluster, usual: dict[str, str], settings: Settings
) -> None:
    given = arguments({**usual, "SEQ_LENGTH": SEQ_LENGTH, "SEEDS": 1, "JOB_DIR": settings.job_dir})
    step = ("srun", "--nodes=2", "--ntasks=2", sys.executable, "-c", FOUR_BUILDERS)
    printed = cluster.ask(*step, *given, env=environment())
    wanted = index_of(settings)
    start = f"{wanted.directory}: {wanted.samples:,} sequences in the order of seed 1, "
    assert printed.count(start) == 8 and ": renamed " not in printed, "all have it, and none took it for damaged"
    assert list(paths.index_root(settings).iterdir()) == [wanted.directory]
    assert index.ensure(wanted)[1] is False
