"""benchmarks/ of a submission: the code that its runs ran, and how to run it again."""

import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from llama31.common.errors import UserError
from llama31.config import paths
from llama31.plan.plan import assignment
from llama31.settings import Settings

LOCAL = (
    "job_dir", "partition", "account", "time", "sbatch_args", "dependencies", "host", "ssh_user", "code_path", "image",
    "mounts", "preprocessed_path", "tokenizer_path", "tmp_npy_index", "model_ckpt", "continual_ckpt", "seeds", "nexp",
    "tag", "config_filename",
)  # fmt: skip
"""Settings that belong to the submitter's site or to one run; who repeats the runs gives their own."""

SETUP = """#!/usr/bin/env bash
# Makes the environment, code/.venv; in a container built from code/Dockerfile it is there already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec bash code/dev/setup.sh
"""

DATA = """#!/usr/bin/env bash
# Downloads token files and tokenizer from MLCommons; code/docs/data.md has other ways to get them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
: "${PREPROCESSED_PATH:?directory for the token files}" "${TOKENIZER_PATH:?directory for the tokenizer}"
bash code/utils/download_data.sh preprocessed
exec bash code/utils/download_data.sh tokenizer
"""

RUN = """#!/usr/bin/env bash
# One run with the settings of the submission:  bash run_and_time.sh SEED
# The site's own settings, such as PARTITION, come from the environment; code/config.sh lists them.
set -euo pipefail
here="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"
: "${{1:?the seed of the run}}"
: "${{PREPROCESSED_PATH:?directory of the token files}}" "${{TOKENIZER_PATH:?directory of the tokenizer}}"
exec bash "$here/code/run_llama31.sh" SEEDS="$1" {settings}
"""

README = """# Llama 3.1 8B pretraining: {title}

Runs with NVIDIA NeMo 2.0 and Megatron-Core. `code/` is the harness at commit {commit}; its README.md and
`docs/` explain data, model, rules and settings.

1. `bash setup.sh` makes the environment.
2. `bash init_datasets.sh` downloads the data to `PREPROCESSED_PATH` and `TOKENIZER_PATH`.
3. `bash run_and_time.sh SEED` trains once and leaves the MLPerf log in its run directory.

Seeds of the submitted runs, in the order of their logs: {seeds}.

| Software | Version in the runs |
| :-- | :-- |
{versions}
"""


def write(
    destination: Path,
    title: str,
    settings: Settings,
    seeds: Sequence[int],
    commit: str,
    versions: Mapping[str, str],
) -> None:
    """Writes the implementation's directory: a commit, scripts over it, and what the runs were."""
    destination.mkdir(parents=True)
    _archive(commit, destination / "code")
    texts = {
        "setup.sh": SETUP,
        "init_datasets.sh": DATA,
        "run_and_time.sh": RUN.format(settings=" ".join(map(shlex.quote, assignments(settings)))),
        "README.md": README.format(
            title=title,
            commit=commit,
            seeds=", ".join(map(str, seeds)),
            versions="\n".join(f"| {name} | {version} |" for name, version in versions.items()),
        ),
    }
    for name, text in texts.items():
        (destination / name).write_text(text, encoding="utf-8")


def assignments(settings: Settings) -> list[str]:
    """NAME=value for all that makes the runs what they are."""
    return [
        assignment(field.name, value)
        for field in fields(Settings)
        if field.name not in LOCAL and (value := getattr(settings, field.name)) != field.default
    ]


def commit_of(said: Sequence[str | None]) -> str:
    """The commit that all runs ran. Raises UserError where they ran several, or one that is not in this checkout.

    Runs in a container without git do not know theirs; then it is this checkout's.
    """
    commits = set(said)
    if len(commits) > 1:
        raise UserError(f"the runs ran different code: commits {', '.join(sorted(map(str, commits)))}")
    commit = commits.pop() or "HEAD"
    try:
        return _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").decode().strip()
    except (OSError, subprocess.SubprocessError):
        raise UserError(f"{paths.REPOSITORY}: no git checkout that has the runs' commit {commit}; fetch it") from None


def _archive(commit: str, destination: Path) -> None:
    """The files of a commit, but for hidden ones, which git's servers use and the repository checker refuses."""
    with tempfile.TemporaryFile() as file:
        file.write(_git("archive", "--format=tar", commit))
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            members = [m for m in archive.getmembers() if not any(part.startswith(".") for part in Path(m.name).parts)]
            archive.extractall(destination, members=members, filter="data")


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", paths.REPOSITORY, *arguments], capture_output=True, check=True).stdout
