"""Download of Llama 3.1 8B's tokenizer and weights from Hugging Face."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import disable_progress_bars, filter_repo_objects
from requests import RequestException

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.corpus import hugging_face_files
from llama31.data.tokenizer import vocabulary_size


def download_hf(repository: str, directory: Path, weights: bool) -> str:
    """Fetch a repository's tokenizer, with `weights` also its weights, to `directory`; return a summary line.

    Files that exist are not fetched again. The token is that of `hf auth login`, or HF_TOKEN. Raises UserError, one
    line, if the repository is not accessible.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    with failures_named(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with _refusals_named(repository, directory):
        # If access is refused, snapshot_download would silently return the directory's current files.
        info = HfApi().repo_info(repository, files_metadata=True)
        wanted = _wanted(repository, info.siblings or [], weights)
        HfApi().get_hf_file_metadata(url=hf_hub_url(repository, wanted[0].rfilename, revision=info.sha))
        names = [file.rfilename for file in wanted]
        snapshot_download(repository, revision=info.sha, local_dir=directory, allow_patterns=names)
        for file in wanted:
            _check(directory / file.rfilename, file.size)
    return f"{directory}: {repository}, a vocabulary of {vocabulary_size(directory):,}"


def _wanted(repository: str, files: Sequence[RepoSibling], weights: bool) -> list[RepoSibling]:
    patterns = [*hugging_face_files.TOKENIZER, *(hugging_face_files.WEIGHTS if weights else ())]
    found = list(filter_repo_objects(files, allow_patterns=patterns, key=lambda file: file.rfilename))
    for pattern in (hugging_face_files.TOKENIZER[0], *(["model*.safetensors"] if weights else [])):
        if not list(filter_repo_objects(found, allow_patterns=pattern, key=lambda file: file.rfilename)):
            raise UserError(f"{repository}: has no {pattern}")
    return found


def _check(path: Path, size: int | None) -> None:
    """Raise UserError if a file has not the size that the repository states; `size` is None for some mirrors."""
    with failures_named(path):
        found = path.stat().st_size
    if size is not None and found != size:
        raise UserError(f"{path}: {found:,} bytes, the repository says {size:,}; remove it to fetch it again")


@contextmanager
def _refusals_named(repository: str, directory: Path) -> Iterator[None]:
    """Turn the exceptions of Hugging Face's library into a UserError of one line."""
    page = f"https://huggingface.co/{repository}"
    try:
        yield
    except GatedRepoError:
        raise UserError(f"{repository}: request access on {page}; then: hf auth login") from None
    except RepositoryNotFoundError:
        raise UserError(f"{repository}: no such repository, or it needs a login: hf auth login; see {page}") from None
    except HFValidationError as error:
        raise UserError(f"{repository}: invalid repository name: {error}") from None
    except HfHubHTTPError as error:
        raise UserError(f"{repository}: Hugging Face refused: {_first_line(error)}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, RequestException) as error:
        raise UserError(f"{repository}: Hugging Face cannot be reached: {_first_line(error)}") from None
    except OSError as error:
        raise UserError(f"{directory}: {error.strerror or _first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
