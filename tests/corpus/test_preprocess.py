"""utils/preprocess.sh: on this machine, and as a job of a real Slurm with two nodes (dev/slurm_cluster.sh)."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from cluster import DEADLINE, REPOSITORY, Cluster

from llama31 import rules
from llama31.common.errors import UserError
from llama31.corpus.preprocess import Task, from_merged, share_of, tokenize_all

pytestmark = pytest.mark.slow

SCRIPT = REPOSITORY / "utils" / "preprocess.sh"
SAMPLE = 40  # documents of the validation set
NAMES = [*map(rules.train_part_name, (5, 6, 7)), rules.validation_name(SAMPLE)]


@dataclass
class Corpus:
    """Merged files, a tokenizer, a place for the token files, and the settings that name them."""

    root: Path

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed"

    def merged(self, name: str) -> Path:
        return self.root / "merged" / f"{name}.json.gz"

    def environment(self, **env: str) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "CONT_IMAGE"))}
        ours |= {"LLAMA31_VENV": sys.prefix, "TOKENIZER_PATH": str(self.root / "tokenizer"), "PARTS": "5 6 7"}
        ours |= {"MERGED_C4_PATH": str(self.root / "merged"), "PREPROCESSED_PATH": str(self.preprocessed)}
        return {**ours, "N_VALIDATION_SAMPLES": str(SAMPLE), **env}

    def run(self, expect: int = 0, **env: str) -> tuple[str, str]:
        done = subprocess.run(
            ["bash", SCRIPT],
            env=self.environment(**env),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == expect, done.stderr
        return done.stdout, done.stderr

    def damage(self, name: str) -> bytes:
        """Truncate a merged file; return its previous contents."""
        path = self.merged(name)
        content = path.read_bytes()
        path.write_bytes(content[:-9])
        return content

    def files(self) -> dict[str, bytes]:
        """Names of the existing token files."""
        return {path.name: path.read_bytes() for path in self._files()}

    def inodes(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in self._files()}

    def _files(self) -> list[Path]:
        return [path for path in self.preprocessed.iterdir() if path.suffix in (".bin", ".idx")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus whose token files are made by `tokenize`, one at a time."""
    root = tmp_path_factory.mktemp("corpus")
    tiny.make_tokenizer(root / "tokenizer")
    (root / "merged").mkdir()
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in tiny.texts()]
    corpus = Corpus(root)
    for number, name in enumerate(NAMES):
        corpus.merged(name).write_bytes(gzip.compress(b"".join(lines[number :: len(NAMES)])))
        command = [sys.executable, "-m", "llama31", "tokenize", f"--input={corpus.merged(name)}"]
        command += [f"--output-prefix={corpus.preprocessed / rules.token_file_name(name)}"]
        subprocess.run([*command, f"--tokenizer={root / 'tokenizer'}"], check=True, capture_output=True, cwd=REPOSITORY)
    return corpus


@pytest.fixture
def corpus(made: Corpus, tmp_path: Path) -> Corpus:
    """The same without token files."""
    root = tmp_path / "a $HOME of data"
    shutil.copytree(made.root, root, ignore=shutil.ignore_patterns("preprocessed"))
    return Corpus(root)


@pytest.mark.parametrize("jobs", ["", "3"])
def test_writes_the_files_and_then_keeps_them(jobs: str, corpus: Corpus, made: Corpus) -> None:
    out, _ = corpus.run(JOBS=jobs)
    assert out.splitlines()[-1].startswith("4 token files done: ")
    assert corpus.files() == made.files()
    before = corpus.inodes()
    corpus.run(JOBS=jobs)
    assert corpus.inodes() == before


def test_parts_and_defaults(corpus: Corpus) -> None:
    corpus.run(PARTS="")
    assert {name.partition("_text")[0] for name in corpus.files()} == {NAMES[3]}
    _, errors = corpus.run(expect=2, PARTS="6", N_VALIDATION_SAMPLES="")
    assert f"{corpus.merged('c4-validation-91205-samples.en')}: FAILED (exit code 2)" in errors
    assert {name.partition("_text")[0] for name in corpus.files()} == {NAMES[1], NAMES[3]}


def test_a_file_that_fails_is_named_and_the_others_are_done(corpus: Corpus, made: Corpus) -> None:
    whole = corpus.damage(NAMES[1])
    _, errors = corpus.run(expect=2)
    assert errors.splitlines()[-1] == f"{corpus.merged(NAMES[1])}: FAILED (exit code 2)"
    assert len(corpus.files()) == 6
    before = corpus.inodes()
    corpus.merged(NAMES[1]).write_bytes(whole)
    corpus.run()
    assert corpus.files() == made.files()
    assert before.items() <= corpus.inodes().items()


def test_bad_lines_are_skipped_where_that_is_asked_for(corpus: Corpus, made: Corpus) -> None:
    merged = corpus.merged(NAMES[1])
    merged.write_bytes(merged.read_bytes() + gzip.compress(b"bad\n"))
    corpus.run(ON_BAD_LINE="skip", BAD_LINE_LIMIT="1", PARTS="6")
    assert corpus.files().items() <= made.files().items()
    manifest = json.loads((corpus.preprocessed / f"{rules.token_file_name(NAMES[1])}.manifest.json").read_text())
    assert manifest["skipped_lines"] == 1


def test_a_killed_process_is_named(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does this when memory runs out; the files before and after are still processed."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *en_6*) kill -9 $$ ;; *) echo "$3 $4" >>"$0.calls" ;; esac\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    tasks = from_merged(Path("merged"), Path("preprocessed"), [5, 6, 7], SAMPLE).tasks
    with pytest.raises(UserError) as error:
        tokenize_all(tasks, corpus.root / "tokenizer", jobs=1, threads=1)
    assert error.value.lines == ["merged/c4-train.en_6.json.gz: FAILED (killed by SIGKILL)"]
    calls = (tmp_path / "python.calls").read_text().splitlines()
    assert calls == [f"tokenize --input=merged/{NAMES[number]}.json.gz" for number in (0, 2, 3)]


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({"TOKENIZER_PATH": ""}, "TOKENIZER_PATH: set it to the directory of the tokenizer"),
        ({"MERGED_C4_PATH": ""}, "MERGED_C4_PATH: set it to the directory with the merged files"),
        ({"PREPROCESSED_PATH": ""}, "PREPROCESSED_PATH: set it to the directory for the token files"),
        ({"BAD_LINE_LIMIT": "3"}, "--bad-line-limit=3: has an effect only with --on-bad-line=skip"),
        ({"PARTS": "x"}, 'PARTS="x": x is not one of the parts 0 to 7; example: PARTS="6 7"'),
        ({"TOKENIZER_PATH": "/data/none"}, "/data/none: no such tokenizer directory"),
        ({"SLURM_ARRAY_JOB_ID": "1"}, "remove --array: --nodes=N divides the files among N nodes"),
        ({"CONT_IMAGE_URL": "x.sqsh"}, "CONT_IMAGE_URL=x.sqsh needs Slurm; within the container, unset it"),
    ],
)
def test_mistakes_are_one_line(env: dict[str, str], line: str, corpus: Corpus) -> None:
    _, errors = corpus.run(expect=2, **env)
    assert errors.endswith(f"{line}\n")
    assert errors.count("\n") == 1


def test_shares_are_all_and_disjoint() -> None:
    tasks = [Task(Path(str(number)), Path()) for number in range(7)]
    for count in (1, 2, 3, 9):
        shares = [share_of(tasks, f"{index}/{count}") for index in range(count)]
        assert sorted((task.source for share in shares for task in share), key=str) == [task.source for task in tasks]
    for wrong in ("1", "1/1", "-1/2", "a/b"):
        with pytest.raises(UserError, match="example: 0/2"):
            share_of(tasks, wrong)


STEPS = """\
srun
--kill-on-bad-exit=0
--wait=0
--container-image=registry#team/image:1
--no-container-mount-home
--container-workdir=REPOSITORY
--container-mounts=REPOSITORY:REPOSITORY,ROOT/tokenizer:ROOT/tokenizer,ROOT/merged:ROOT/merged,\
ROOT/preprocessed:ROOT/preprocessed
--nodes=8
--ntasks=128
--ntasks-per-node=16
--cpus-per-task=8
bash
-c
exec "$@" --share="$SLURM_PROCID/$SLURM_NTASKS"
preprocess
env
LLAMA31_VENV=none
bash
REPOSITORY/utils/llama31.sh
preprocess
ROOT/merged
ROOT/preprocessed
--tokenizer=ROOT/tokenizer
--parts=6 7
--samples=40
--jobs=1
--threads=8
srun
--kill-on-bad-exit=0
--wait=0
--container-image=registry#team/image:1
--no-container-mount-home
--container-workdir=REPOSITORY
--container-mounts=REPOSITORY:REPOSITORY,ROOT/tokenizer:ROOT/tokenizer,ROOT/merged:ROOT/merged,\
ROOT/preprocessed:ROOT/preprocessed
--nodes=1
--ntasks=1
--cpus-per-task=128
env
LLAMA31_VENV=none
bash
REPOSITORY/utils/llama31.sh
preprocess
ROOT/merged
ROOT/preprocessed
--tokenizer=ROOT/tokenizer
--parts=6 7
--samples=40
--finish
"""


def test_steps_in_containers(corpus: Corpus, tmp_path: Path) -> None:
    """Arguments of srun with pyxis, which is not installed here: on 8 nodes of 128 cores."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\nprintf '%s\\n' srun \"$@\"\n")
    srun.chmod(0o755)
    out, _ = corpus.run(
        PATH=f"{srun.parent}:{os.environ['PATH']}",
        SLURM_JOB_ID="1",
        SLURM_JOB_NUM_NODES="8",
        SLURM_CPUS_ON_NODE="128",
        CONT_IMAGE_URL="registry#team/image:1",
        PARTS="6 7",
    )
    assert out.replace(str(corpus.root), "ROOT").replace(str(REPOSITORY), "REPOSITORY") == STEPS


def submit(
    cluster: Cluster, corpus: Corpus, *options: str, script: str | Path = SCRIPT, stdin: str = "", **env: str
) -> tuple[str, str, str]:
    """Submit utils/preprocess.sh and wait for its end; return its job id, state and output."""
    output = corpus.root / "job.out"
    command = ("sbatch", "--parsable", f"--output={output}", *options, *([] if stdin else [script]))
    number = cluster.ask(*command, env=corpus.environment(**env), stdin=stdin).strip()
    return number, cluster.ended(number), output.read_text()


@pytest.mark.slurm
def test_job_on_two_nodes(cluster: Cluster, corpus: Corpus, made: Corpus) -> None:
    number, state, printed = submit(cluster, corpus, "--nodes=2")
    assert state == "COMPLETED", printed
    assert printed.splitlines()[-1].startswith("4 token files done: ")
    assert corpus.files() == made.files()
    for node in ("n1", "n2"):
        log = (cluster.directory / f"slurmd.{node}.log").read_text()
        assert f"launch task StepId={number}.0" in log
    before = corpus.inodes()
    assert submit(cluster, corpus, "--nodes=2")[1] == "COMPLETED"
    assert corpus.inodes() == before


@pytest.mark.slurm
def test_one_task_fails(cluster: Cluster, corpus: Corpus, made: Corpus) -> None:
    whole = corpus.damage(NAMES[2])
    _, state, printed = submit(cluster, corpus, "--nodes=2")
    assert state == "FAILED"
    assert f"{corpus.merged(NAMES[2])}: FAILED (exit code 2)" in printed
    assert f"{corpus.merged(NAMES[2])}: not tokenised: " in printed
    assert len(corpus.files()) == 6
    before = corpus.inodes()
    corpus.merged(NAMES[2]).write_bytes(whole)
    assert submit(cluster, corpus)[1] == "COMPLETED", "on one node this time"
    assert corpus.files() == made.files()
    assert before.items() <= corpus.inodes().items()


@pytest.mark.slurm
def test_site_defaults_do_not_end_the_other_files(cluster: Cluster, corpus: Corpus) -> None:
    """On one node a file fails at once, while the other node is running."""
    corpus.merged(NAMES[1]).unlink()
    corpus.merged(NAMES[3]).write_bytes(corpus.merged(NAMES[3]).read_bytes() * 100)
    _, state, printed = submit(cluster, corpus, "--nodes=2", PARTS="6", SLURM_KILL_BAD_EXIT="1", SLURM_WAIT="1")
    assert state == "FAILED"
    assert {name.partition("_text")[0] for name in corpus.files()} == {NAMES[3]}, printed


@pytest.mark.slurm
def test_submitted_from_elsewhere(cluster: Cluster, corpus: Corpus, tmp_path: Path) -> None:
    """Slurm names the script as it was given; as text it has no place from which the rest can be found."""
    script = SCRIPT.relative_to(REPOSITORY)
    _, state, printed = submit(cluster, corpus, f"--chdir={tmp_path}", script=script)
    assert state == "COMPLETED", printed
    _, state, printed = submit(cluster, corpus, stdin=SCRIPT.read_text())
    assert state == "FAILED"
    assert printed == "preprocess: submit it as a file, such as sbatch utils/preprocess.sh\n"


@pytest.mark.slurm
@pytest.mark.parametrize("command", [("salloc", "--nodes=2", "bash"), ("srun", "--cpus-per-task=2", "bash")])
def test_interactive(command: tuple[str, ...], cluster: Cluster, corpus: Corpus, made: Corpus) -> None:
    """In the shell of an allocation, and in that of a step, which holds all that a step within it needs."""
    out = cluster.ask(*command, SCRIPT, env=corpus.environment())
    assert out.splitlines()[-1].startswith("4 token files done: ")
    assert corpus.files() == made.files()


def test_a_node_of_unknown_size(corpus: Corpus) -> None:
    _, errors = corpus.run(expect=2, SLURM_JOB_ID="1", SLURM_JOB_NUM_NODES="2")
    line = "neither SLURM_CPUS_ON_NODE nor SLURM_JOB_CPUS_PER_NODE is set"
    assert errors == f"preprocess: {line}\n"


@pytest.mark.slurm
def test_mistake_in_a_job(cluster: Cluster, corpus: Corpus) -> None:
    _, state, printed = submit(cluster, corpus, TOKENIZER_PATH="")
    assert state == "FAILED"
    assert printed.endswith("TOKENIZER_PATH: set it to the directory of the tokenizer\n")


@pytest.mark.slurm
def test_cluster_start_and_status_can_be_repeated(cluster: Cluster) -> None:
    cluster.control("start")
    cluster.control("status")
