"""Paths: the data that settings name, and the files of a run directory. Standard library only."""

import sys
from dataclasses import replace
from pathlib import Path

from llama31 import rules
from llama31.common.files import failures_named
from llama31.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]

# Files of a run directory
SETTINGS = "settings.yaml"
RECORD = "run.json"
OUTCOME = "outcome.json"
START = "start.json"
METRICS = "metrics.jsonl"
MLPERF_LOG = "mlperf.log"
RANK_LOGS = "logs"
PROFILE = "profile"
NEMO_LOGS = "nemo"
TENSORBOARD = "tensorboard"
WANDB = "wandb"
CACHES = "caches.log"
"""With CLEAR_CACHES, a line for each node; see `llama31.run_dir.cache_log`."""
TOKENIZER = "tokenizer"
"""The tokenizer that the ranks load; see `llama31.data.run_tokenizer`."""
LATEST = "latest"
"""Link beside run directories to the newest one."""
SUBMISSION = "submission.json"
SCRIPT = "job.sbatch"
RUNS_SCRIPT = "runs.sbatch"
"""In the first of several run directories that share a job: the script that runs all of them."""


def is_checkout(directory: Path = REPOSITORY) -> bool:
    """Return whether a directory is a checkout of this repository; an installed wheel has only packages."""
    return (directory / "run_llama31.sh").is_file()


def latest_run(directory: Path) -> Path:
    """Return `directory` if it is a run directory, else the newest run in it. Raises UserError if it cannot be read."""
    with failures_named(directory):
        while not (directory / START).is_file() and (directory / LATEST).is_dir():
            directory = directory / LATEST
    return directory


def train_prefixes(settings: Settings) -> list[Path]:
    """Return the token files of the training parts, without extension."""
    directory = Path(settings.preprocessed_path)
    parts = map(int, settings.train_parts.split())
    return [directory / rules.token_file_name(rules.train_part_name(part)) for part in parts]


def validation_prefix(settings: Settings) -> Path:
    """Return the token file of the validation set, without extension."""
    name = rules.validation_name(settings.n_validation_samples)
    return Path(settings.preprocessed_path) / rules.token_file_name(name)


def of_ranks(settings: Settings) -> Settings:
    """Return settings whose PREPROCESSED_PATH is the directory that ranks read: COPY_DATA_TO, if it is set."""
    return replace(settings, preprocessed_path=settings.copy_data_to or settings.preprocessed_path)


def index_root(settings: Settings) -> Path:
    """Return the directory of training indices: TMP_NPY_INDEX, or JOB_DIR/index."""
    return Path(settings.tmp_npy_index) if settings.tmp_npy_index else Path(settings.job_dir) / "index"


def slurm_log(job_id: int | str) -> str:
    """Return the name of a Slurm job's log in its run directory; sbatch replaces %j by the id."""
    return f"slurm-{job_id}.log"


def runs_log(job_id: int | str) -> str:
    """Return the name of the log of a job that several runs share, in the directory of the first one."""
    return f"runs-{job_id}.log"


def job_code(settings: Settings) -> str:
    """Return the directory of this repository on the nodes of a Slurm job."""
    return settings.code_path or str(REPOSITORY)


def job_python(settings: Settings) -> str:
    """Return the Python of a Slurm job: the image's, that of CODE_PATH, or the running one."""
    if settings.image:
        return "python3"
    return f"{job_code(settings)}/.venv/bin/python" if settings.host or settings.code_path else sys.executable
