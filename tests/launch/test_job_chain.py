"""The record of a submission (job_chain.py), and Slurm's tools, locally or through ssh (remote_shell.py)."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import runs

from llama31.common.errors import UserError
from llama31.config import paths
from llama31.launch import cluster_needs, prepare, remote_shell
from llama31.launch.slurm import submit
from llama31.run_dir import job_chain
from llama31.run_dir.job_chain import Submission
from llama31.settings import Settings

SUBMITTED = Submission(jobs=[12, 13, 14], seed=7, destination="me@login", submitted="2026-11-23T14:00:00+0000")

SMALL = {"PARTITION": "p", "SIZE": "tiny", "SEQ_LENGTH": 64, "EVAL_SAMPLES": 4}


def test_what_is_stored_is_loaded(tmp_path: Path) -> None:
    assert job_chain.load(tmp_path) is None
    job_chain.store(tmp_path, SUBMITTED)
    assert job_chain.load(tmp_path) == SUBMITTED
    assert [file.name for file in tmp_path.iterdir()] == [paths.SUBMISSION], "something half-written is left"


@pytest.mark.parametrize("directory", ["8b-seed1", "8b-seed1/job-12", "8b-seed1/job-12-3"])
def test_all_jobs_of_a_run_share_its_name(tmp_path: Path, directory: str) -> None:
    assert job_chain.run_dir_of(tmp_path / directory) == tmp_path / "8b-seed1"


@pytest.mark.parametrize(
    "text",
    [
        '{"jobs": [12',
        "[]",
        "null",
        '{"jobs": [12]}',
        json.dumps({**vars(SUBMITTED), "jobs": ["12"]}),
        "\xff",
        *(json.dumps({**vars(SUBMITTED), "jobs": jobs}) for jobs in ([], [True], [-1], [[12]])),
        # ssh would run it
        *(json.dumps({**vars(SUBMITTED), "destination": name}) for name in ("-oProxyCommand=x", "a b", "a\n-b")),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / paths.SUBMISSION
    file.write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as caught:
        job_chain.load(tmp_path)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_job_directories_are_in_the_order_in_which_they_were_started(tmp_path: Path) -> None:
    started = [(9, 0), (9, 1), (9, 10), (10, 0), (10, 2), (123, 0)]
    for job, restarts in reversed(started):
        (tmp_path / job_chain.job_dir_name(job, restarts)).mkdir()
    for other in ("job.sbatch", "job-", "job-x", "jobs-12", "job-12-", "job-12-1.partial", "slurm-9.log"):
        (tmp_path / other).touch()
    assert job_chain.job_dirs(tmp_path) == [tmp_path / job_chain.job_dir_name(*one) for one in started]
    (tmp_path / "job-9-1" / paths.SETTINGS).touch()
    assert job_chain.started_dirs(tmp_path) == [tmp_path / "job-9-1"]
    assert job_chain.job_of(tmp_path / "job-9-1") == 9


@pytest.mark.parametrize("answer", ["12\n", "12;cluster\n", "charged to: me\n12\n", "12\nYou have 3 jobs\n"])
def test_job_id_is_found_among_remarks(answer: str) -> None:
    assert submit.job_id(answer) == 12


def test_answer_without_a_job_id_is_shown() -> None:
    with pytest.raises(UserError, match=r"^sbatch: no job id in its answer: 'queued, soon'; squeue --me "):
        submit.job_id("queued, soon\n")


def test_what_the_cluster_must_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell evaluates each condition; a container contains code and Python, or has the code mounted."""
    monkeypatch.setenv("LLAMA31_VENV", sys.prefix)  # this machine's Python
    code, image = tmp_path / "the $CODE", str(tmp_path / "image.sif")
    settings = replace(Settings(), host="login", preprocessed_path=str(tmp_path), code_path=str(code))

    def lacking(settings: Settings) -> list[str]:
        conditions = cluster_needs.needed(settings)
        return [line for holds, line in conditions if subprocess.run(["sh", "-c", holds], check=False).returncode]

    assert [line.partition(":")[0] for line in lacking(settings)] == [f"CODE_PATH={code}"]
    assert lacking(replace(settings, image="registry/image")) == []
    assert [line.partition(":")[0] for line in lacking(replace(settings, image=image))] == [f"IMAGE={image}"]
    (code / "llama31").mkdir(parents=True)
    (line,) = lacking(settings)
    assert line.startswith(f"{code}/.venv/bin/python: not on login; bash dev/setup.sh in CODE_PATH makes it")


def test_what_is_missing_on_a_machine_with_slurm(tiny_data: dict[str, str], tmp_path: Path) -> None:
    """Each is refused before a job is queued, but not checked again within the job, whose nodes may lack it."""

    def lines(**more: object) -> list[str]:
        try:
            prepare.checked(runs.arguments({**tiny_data, **SMALL, **more}), {})
        except UserError as error:
            return error.lines
        return []

    code = tmp_path / "my code"
    assert lines(CODE_PATH=code) == [f"CODE_PATH={code}: not there; name the directory of this repository there"]
    (code / "llama31").mkdir(parents=True)
    assert lines(CODE_PATH=code) == [f"{code}/.venv/bin/python: not there; bash dev/setup.sh in CODE_PATH makes it"]
    (code / ".venv").symlink_to(sys.prefix)
    assert lines(CODE_PATH=code) == []
    assert lines(CODE_PATH="/in/the/image", IMAGE="a/b:1", MOUNTS=f"{code}:/in/the/image") == []
    assert lines(IMAGE="a/b:1", MOUNTS=f"{code}, /disk/of/the nodes:/x") == []
    assert lines() == []


def test_image_that_is_a_file(tiny_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs start elsewhere, and pyxis would look for a relative path in a registry."""
    monkeypatch.chdir(tmp_path)
    settings = {**tiny_data, **SMALL}

    def image(given: str, **more: object) -> str:
        arguments = runs.arguments({**settings, "IMAGE": given, **more})
        return prepare.checked(arguments, {})[0].settings.image

    with pytest.raises(UserError, match=rf"^IMAGE={tmp_path}/image\.sqsh: not there"):
        image("image.sqsh")
    Path("image.sqsh").touch()
    assert image("image.sqsh") == f"{tmp_path}/image.sqsh"
    assert image("team/image:1") == "team/image:1"
    with pytest.raises(UserError, match=r"^IMAGE=image\.sqsh: with HOST, write the absolute path on"):
        image("image.sqsh", HOST="login", JOB_DIR="/runs")


def test_command_through_ssh_is_what_a_shell_splits_again() -> None:
    argv = ["sbatch", "--comment=a $HOME 'and' \"more\"", ""]
    assert remote_shell.command("", argv) == argv
    *ssh, line = remote_shell.command("me@login", argv)
    assert ssh == [*remote_shell.SSH, "me@login"] and "BatchMode=yes" in ssh
    *login_shell, command = shlex.split(line)
    assert login_shell == ["bash", "-lc"], "sites put Slurm on the PATH of login shells"
    assert shlex.split(command) == argv


def test_output_of_a_tool() -> None:
    assert remote_shell.output("", ["cat"], "é\r\n one\rline\n") == "é\r\n one\rline\n"
    assert remote_shell.output("", ["printf", r"\377 is no text\n"]) == "\ufffd is no text\n"
    assert remote_shell.output("", ["cat"]) == "", "it waits for standard input"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["no-such-sbatch"], ["no-such-sbatch: not found", "HOST"]),
        (["sh", "-c", "echo first >&2; echo 'sh: error: last' >&2; exit 3"], ["sh fails: last"]),
        (["sh", "-c", "echo 'sh: no option --x' >&2; echo 'Try --help' >&2; exit 3"], ["sh fails: no option --x"]),
        (["sh", "-c", "exit 3"], ["exit code 3"]),
        (["sleep", "60"], ["sleep: no answer within 0.2 s"]),
    ],
)
def test_failure_of_a_tool_is_one_line(argv: list[str], said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        remote_shell.output("", argv, timeout=0.2)
    (line,) = caught.value.lines
    assert "\n" not in line
    assert all(part in line for part in said), line


def test_ssh_that_is_refused_names_key_and_agent() -> None:
    missing = "missing-host.invalid"  # RFC 2606: never a host
    with pytest.raises(UserError, match=rf"^HOST: ssh {missing} fails: .*key.*agent"):
        remote_shell.output(missing, ["sbatch"])
