"""utils/preprocess.sh and utils/launch_nemo_convert.sh as jobs of a real Slurm: what they start. 5 s."""

import os
from pathlib import Path

import pytest
from cluster import REPOSITORY, Cluster
from hostile import HOSTILE

pytestmark = pytest.mark.slurm

SCRIPTS = ("preprocess.sh", "launch_nemo_convert.sh")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Environment of a submission, with a Python that prints its arguments."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    places = ("TOKENIZER_PATH", "MERGED_C4_PATH", "PREPROCESSED_PATH", "SRC_PATH", "DST_PATH")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "CONT_IMAGE"))}
    return {**ours, "LLAMA31_VENV": str(tmp_path / "venv"), **{name: str(tmp_path / name) for name in places}}


def printed(cluster: Cluster, env: dict[str, str], log: Path, *command: str | Path) -> list[str]:
    """Lines of the log of a job, by its end."""
    cluster.ended(cluster.ask("sbatch", "--parsable", f"--output={log}", *command, env=env).strip())
    return log.read_text().splitlines()


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("hostile", [{}, {name: value for name, value in HOSTILE.items() if name[:6] != "SBATCH"}])
def test_script_finds_its_checkout(
    name: str, hostile: dict[str, str], cluster: Cluster, env: dict[str, str], tmp_path: Path
) -> None:
    """Submitted by a relative path, to work elsewhere; and variables that srun takes for options have no effect."""
    script = (REPOSITORY / "utils" / name).relative_to(REPOSITORY)
    lines = printed(cluster, {**env, **hostile}, tmp_path / "log", f"--chdir={tmp_path}", script)
    program = f"{REPOSITORY}/utils/nemo_convert.py " if name == SCRIPTS[1] else "-m llama31 preprocess "
    assert lines and all(line.startswith(program) for line in lines if not line.startswith("srun: ")), lines


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_task_of_a_job_array_does_anything(name: str, cluster: Cluster, env: dict[str, str], tmp_path: Path) -> None:
    """The last task has the id of the array itself, and Slurm shows all tasks for it."""
    script = REPOSITORY / "utils" / name
    job = cluster.ask("sbatch", "--parsable", "--array=1-2", f"--output={tmp_path}/%a.log", script, env=env).strip()
    for task in (1, 2):
        cluster.ended(f"{job}_{task}")
        (line,) = (tmp_path / f"{task}.log").read_text().splitlines()
        assert ": remove --array: " in line


def test_scripts_find_it_in_the_same_way() -> None:
    """They cannot share a file before they have found it."""

    def lines(name: str) -> str:
        text = (REPOSITORY / "utils" / name).read_text()
        return text[text.index("# Find this checkout.") : text.index("# End of the common lines.")]

    assert lines(SCRIPTS[0]) == lines(SCRIPTS[1])
