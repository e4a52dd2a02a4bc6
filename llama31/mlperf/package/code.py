"""benchmarks/ of a submission: the code of its runs, and scripts to repeat them."""

import io
import re
import shlex
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from llama31.common.errors import UserError
from llama31.config import paths
from llama31.plan.plan import assignment
from llama31.settings import Settings

LOCAL = (
    "job_dir", "partition", "account", "time", "sbatch_args", "dependencies", "host", "ssh_user", "code_path", "image",
    "mounts", "preprocessed_path", "tokenizer_path", "tmp_npy_index", "copy_data_to", "model_ckpt", "continual_ckpt",
    "clear_caches_command", "seeds", "nexp", "mlflow_tracking_uri", "tag", "config_filename",
)  # fmt: skip
"""Settings of the submitter's site or of one run; set differently when the runs are repeated."""

_COMMIT = re.compile("[0-9a-f]{4,64}")

SETUP = """#!/usr/bin/env bash
# Create the environment, code/.venv; a container built from code/Dockerfile already has it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec bash code/dev/setup.sh
"""

DATA = """#!/usr/bin/env bash
# Download token files and tokenizer from MLCommons; code/docs/data.md has other ways to get them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
: "${PREPROCESSED_PATH:?directory for the token files}" "${TOKENIZER_PATH:?directory for the tokenizer}"
bash code/utils/download_data.sh preprocessed
exec bash code/utils/download_data.sh tokenizer
"""

RUN = """#!/usr/bin/env bash
# Train once with the settings of the submission:  bash run_and_time.sh SEED
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

1. `bash setup.sh` creates the environment.
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
    checkout: Path = paths.REPOSITORY,
) -> None:
    """Write the implementation's directory: the code at a commit, scripts that run it, and a README."""
    destination.mkdir(parents=True)
    _archive(checkout, commit, destination / "code")
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
    """Return NAME=value for each setting that defines the runs and is not at its default."""
    return [
        assignment(field.name, value)
        for field in fields(Settings)
        if field.name not in LOCAL and (value := getattr(settings, field.name)) != field.default
    ]


def commit_of(recorded: Sequence[str | None], checkout: Path = paths.REPOSITORY) -> str:
    """Return the commit that all runs ran.

    Runs in a container without git do not record a commit; then it is this checkout's. Raises UserError if they ran
    different commits, or one that is not in this checkout.
    """
    if not paths.is_checkout(checkout):
        raise UserError(f"{checkout}: not a checkout of this repository; name one that has the runs' code with --code")
    if odd := [one for one in recorded if not (one is None or (isinstance(one, str) and _COMMIT.fullmatch(one)))]:
        raise UserError(f"a run recorded the commit {odd[0]!r:.80}, which is none; its run.json is damaged")
    commits = set(recorded)
    if len(commits) > 1:
        raise UserError(f"the runs ran different code: commits {', '.join(sorted(map(str, commits)))}")
    commit = commits.pop() or "HEAD"
    try:
        return _git(checkout, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").decode().strip()
    except (OSError, subprocess.SubprocessError):
        raise UserError(f"{checkout}: not a git checkout with the runs' commit {commit}; fetch it") from None


def _archive(checkout: Path, commit: str, destination: Path) -> None:
    """Extract the files of a commit except hidden ones, which the repository checker rejects."""
    with tarfile.open(fileobj=io.BytesIO(_git(checkout, "archive", "--format=tar", commit))) as archive:
        members = [m for m in archive.getmembers() if not any(part.startswith(".") for part in Path(m.name).parts)]
        archive.extractall(destination, members=members, filter="data")


def _git(checkout: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", checkout, *arguments], capture_output=True, check=True).stdout
