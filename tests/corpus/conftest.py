"""Token files and their tokenizers."""

from pathlib import Path

import pytest
import tiny
from tokenized_texts import TEXTS
from verified_files import built

from dev import demo_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 ids."""
    return tiny.make_tokenizer(tmp_path_factory.mktemp("verify") / "tokenizer")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A token file of DOCUMENTS in a directory of its own, without a manifest."""
    return built(tmp_path / "data" / "data")


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizer of Llama 3's kind."""
    directory = tmp_path_factory.mktemp("tokenizer")
    demo_tokenizer.save(demo_tokenizer.train(TEXTS, vocabulary=300), directory)
    return directory
