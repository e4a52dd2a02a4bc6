"""Llama 3.1 8B's tokenizer and weights from Hugging Face."""

import sys
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars

from llama31.corpus.files import failures_named
from llama31.corpus.tokenizer import vocabulary_size
from llama31.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS_FILES = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")


def download(repository: str, directory: Path, weights: bool) -> str:
    """Fetch the tokenizer's files, with `weights` also the weights', to `directory`; gives a line to print.

    What is there is not fetched again. The token is that of `hf auth login`, or HF_TOKEN. Raises UserError, one line,
    where the repository cannot be had.
    """
    files = [*TOKENIZER_FILES, *(WEIGHTS_FILES if weights else ())]
    page = f"https://huggingface.co/{repository}"
    if not sys.stderr.isatty():
        disable_progress_bars()
    with failures_named(directory):
        directory.mkdir(parents=True, exist_ok=True)
    try:
        snapshot_download(repository, local_dir=directory, allow_patterns=files)
    except GatedRepoError:
        raise UserError(
            f"{repository}: access is granted to those who asked for it on {page}; then: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{repository}: no such repository, or it is not shown without a login: hf auth login; see {page}"
        ) from None
    except HFValidationError as error:
        raise UserError(f"{repository}: not the name of a repository: {error}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise UserError(f"{repository}: Hugging Face cannot be reached: {_first_line(error)}") from None
    except HfHubHTTPError as error:
        raise UserError(f"{repository}: Hugging Face refused: {_first_line(error)}") from None
    except OSError as error:
        raise UserError(f"{directory}: {error.strerror or _first_line(error)}") from None
    return f"{directory}: {repository}, a vocabulary of {vocabulary_size(directory):,}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
