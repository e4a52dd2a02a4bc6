"""Checkpoints that several files of tests convert."""

from pathlib import Path

import llamas
import pytest
import torch
from llamas import KINDS

from llama31.checkpoint.convert import convert, to_hugging_face


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a Hugging Face checkpoint of each kind, under its name."""
    directory = tmp_path_factory.mktemp("models") / "a $HOME {of} models"
    for name, kind in KINDS.items():
        llamas.make(kind, directory / name)
    return directory


@pytest.fixture(scope="session")
def converted(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the NeMo checkpoint of each kind."""
    directory = tmp_path_factory.mktemp("converted")
    for name in KINDS:
        assert convert.convert(models / name, directory / name, "nemo") == 0
    return directory


@pytest.fixture(scope="session")
def back(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with these checkpoints converted back, in several files."""
    directory = tmp_path_factory.mktemp("back")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_hugging_face, "FILE_BYTES", 100_000)
        for name in KINDS:
            assert convert.convert(converted / name, directory / name, "hf") == 0
    return directory


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    return torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llamas.make(llamas.KINDS["3.1"], tmp_path_factory.mktemp("model") / "llama")
