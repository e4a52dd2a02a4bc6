"""The directories that a container shows for a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from llama31.config import mounts
from llama31.launch.prepare import PATH_SETTINGS
from llama31.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        preprocessed_path=str(tmp_path / "data" / "preprocessed"),
        tokenizer_path=str(tmp_path / "data" / "tokenizer"),
        job_dir=str(tmp_path / "runs"),
    )


def test_every_directory_among_the_settings_is_either_read_or_written() -> None:
    assert sorted((*mounts.READ, *mounts.WRITTEN, "code_path", "config_filename")) == sorted(PATH_SETTINGS)


def test_the_directories_of_a_run(settings: Settings, tmp_path: Path) -> None:
    assert mounts.directories(settings) == [
        tmp_path / "data" / "preprocessed",
        tmp_path / "data" / "tokenizer",
        tmp_path / "runs",  # contains the index
    ]


def test_all_that_are_set(settings: Settings, tmp_path: Path) -> None:
    elsewhere = {name: str(tmp_path / "a b" / name) for name in ("tmp_npy_index", "model_ckpt", "continual_ckpt")}
    found = mounts.directories(replace(settings, **elsewhere))
    assert {str(path) for path in found} == {
        *elsewhere.values(),
        settings.preprocessed_path,
        settings.tokenizer_path,
        settings.job_dir,
    }


def test_one_within_another_is_left_out(settings: Settings, tmp_path: Path) -> None:
    assert mounts.directories(replace(settings, job_dir=str(tmp_path))) == [tmp_path]
    assert mounts.directories(replace(settings, tokenizer_path=settings.preprocessed_path)) == [
        Path(settings.preprocessed_path),
        tmp_path / "runs",
    ]


def test_a_name_that_begins_like_another_is_not_within_it(tmp_path: Path) -> None:
    directories = [tmp_path / "data", tmp_path / "data-2", tmp_path / "data" / "x"]
    assert mounts.outermost(directories) == directories[:2]


def test_a_link_out_of_a_mounted_directory_is_mounted_itself(settings: Settings, tmp_path: Path) -> None:
    for name in ("fast", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "runs" / "index").symlink_to(tmp_path / "fast")
    assert tmp_path / "runs" / "index" in mounts.directories(settings)
    (tmp_path / "runs" / "index").unlink()
    assert tmp_path / "runs" / "index" not in mounts.directories(settings)


def test_links_of_files_lead_to_directories_that_are_mounted_too(settings: Settings, tmp_path: Path) -> None:
    """As in Hugging Face's cache, over a second link, and below a checkpoint; no mount for those that lead nowhere."""
    snapshot, blobs, weights = (tmp_path / name for name in ("hub/snapshots/x", "hub/blobs", "checkpoint/weights"))
    alias, far, disk = (tmp_path / name for name in ("alias", "far", "disk"))
    for directory in (snapshot, blobs, weights, alias, far, disk, Path(settings.preprocessed_path)):
        directory.mkdir(parents=True)
    for file in (blobs / "123", far / "part.bin", disk / "0.distcp", weights / "own"):
        file.touch()
    (snapshot / "tokenizer.json").symlink_to("../../blobs/123")
    (Path(settings.preprocessed_path) / "part.bin").symlink_to(alias / "part.bin")
    (alias / "part.bin").symlink_to(far / "part.bin")
    (weights / "0.distcp").symlink_to(disk / "0.distcp")
    (weights / "metadata").symlink_to("own")
    (weights / "loop").symlink_to("loop")
    (weights / "gone").symlink_to("/nowhere/gone")
    linked = replace(settings, tokenizer_path=str(snapshot), model_ckpt=str(weights.parent))
    assert set(mounts.directories(linked)) == {
        Path(settings.preprocessed_path), snapshot, weights.parent, tmp_path / "runs", blobs, alias, far, disk
    }  # fmt: skip


def test_a_link_on_the_way_to_all_of_them_makes_no_difference(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "real")
    assert tmp_path / "runs" / "index" not in mounts.directories(settings)


def test_relative_paths_are_those_of_the_user(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "runs" in mounts.directories(replace(settings, job_dir="runs"))


def test_parents_are_followed_where_they_lead(tmp_path: Path) -> None:
    """To the parent of what a link leads to, as the system has it."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    assert mounts.absolute(tmp_path / "link" / ".." / "data") == tmp_path / "far" / "data"
