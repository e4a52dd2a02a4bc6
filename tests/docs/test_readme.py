"""README.md: its length and order, the quick start, the map of the code, and the commands that it gives."""

import ast
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from documents import README, REPOSITORY, bash, blocks, flowing, page, text

from llama31 import rules
from llama31.cli import main as cli
from llama31.config.model_sizes import SIZES
from llama31.settings import Settings

SECTIONS = [
    "Quick start", "The benchmark", "Run it", "Watch, check, report, submit", "On Slurm", "Checkpoints",
    "When memory is short", "Container", "Troubleshooting", "Map of the code", "Limits", "Licence",
]  # fmt: skip
WORDS_OF_A_NOTE = 6
FILES_TO_READ = 6


# --- Form ---------------------------------------------------------------------------------------------------------


def test_it_is_short_and_in_order() -> None:
    assert len(text(README).splitlines()) < 350
    assert re.findall(r"^## (.+)$", text(README), re.M) == SECTIONS


def test_the_quick_start_is_in_the_first_60_lines() -> None:
    """The two commands, and ten lines of the demo's output, which are also in the tutorial."""
    beginning = "\n".join(text(README).splitlines()[:60])
    for command in ("bash dev/demo.sh", "bash dev/test.sh"):
        assert re.search(rf"^{command}\b", beginning, re.M), command
    output = blocks(README, "text")[0]
    assert output in beginning
    lines = output.splitlines()
    assert len(lines) == 10
    narrated = "\n".join(blocks(page("tutorial"), "text")).splitlines()
    assert [line for line in lines if line not in narrated] == []


# --- The map of the code ------------------------------------------------------------------------------------------


def tree() -> Iterator[tuple[Path, str]]:
    """Each path of the map with its note."""
    (block,) = (block for block in blocks(README, "text") if "llama31/" in block.split())
    parents: list[str] = []
    for line in block.splitlines():
        match = re.fullmatch(r"((?:    )*)(\S+)(?: +(\S.*))?", line)
        assert match, f"no path and note: {line}"
        depth = len(match[1]) // 4
        parents[depth:] = [match[2]]
        yield Path(*parents), match[3] or ""


def test_the_map_is_complete() -> None:
    found = [path for path, _ in tree()]
    assert len(found) == len(set(found))
    for path in found:
        assert (REPOSITORY / path).exists(), path
    package = REPOSITORY / "llama31"
    needed = {path for path in package.iterdir() if path.suffix == ".py" and not path.name.startswith("_")}
    needed |= {path.parent for path in package.glob("*/__init__.py")}
    needed |= {path for path in REPOSITORY.iterdir() if path.is_dir() and path.name.isalnum() and any(path.iterdir())}
    ignored = re.findall(r"^/(\w+)/$", (REPOSITORY / ".gitignore").read_text(), re.M)
    for path in sorted(path.relative_to(REPOSITORY) for path in needed):
        assert path in found or path.name in ignored, f"{path} is not in the map"


def test_the_notes_of_the_map_are_brief() -> None:
    for path, note in tree():
        is_parent = path == Path("llama31")
        assert is_parent or 2 <= len(note.split()) <= WORDS_OF_A_NOTE, f"{path}: {note}"


def imported(file: Path) -> Iterator[str]:
    """Rooms of the package that a file imports from, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (module.split(".")[1] for module in modules if module.startswith("llama31."))


def test_the_map_is_in_the_order_of_imports() -> None:
    """Each room imports only from rooms above it."""
    rooms = [path.name.removesuffix(".py") for path, _ in tree() if path.parts[0] == "llama31" and len(path.parts) == 2]
    package = REPOSITORY / "llama31"
    for index, room in enumerate(rooms):
        files = [package / f"{room}.py"] if (package / f"{room}.py").exists() else list((package / room).rglob("*.py"))
        used = {name for file in files for name in imported(file)} - {room}
        assert used <= set(rooms[:index]), f"{room} imports from {sorted(used - set(rooms[:index]))}"


def test_the_files_to_read_first_exist() -> None:
    section = text(README).partition("## Map of the code")[2].partition("\n## ")[0]
    files = re.findall(r"^\d\. `([\w./]+)`: \S", section, re.M)
    assert len(files) == FILES_TO_READ
    assert all((REPOSITORY / file).is_file() for file in files)


# --- Figures ------------------------------------------------------------------------------------------------------


def test_the_benchmark_is_that_of_the_rules() -> None:
    usual = Settings()
    interval = rules.steps_between_evaluations(usual.eval_every, usual.gbs)
    point = rules.REFERENCE_POINTS[usual.gbs]
    shards = len(rules.BENCHMARK_PARTS) * rules.SHARDS_PER_PART
    for words in (
        f"loss reaches {rules.TARGET}:",
        f"`{rules.BENCHMARK}`",
        "Python 3.10 to 3.12",
        f"Llama 3.1 8B, {SIZES[rules.SIZE].parameters(rules.VOCABULARY_SIZE):,} parameters",
        f"`SIZE={rules.SIZE}`",
        f"the last {shards} of {rules.TRAIN_SHARDS:,} shards (parts {' and '.join(map(str, rules.BENCHMARK_PARTS))})",
        f"the first {rules.EVAL_SAMPLES:,} sequences of the first {rules.VALIDATION_DOCUMENTS:,} validation documents",
        f"| {rules.SEQUENCE_LENGTH:,} tokens |",
        f"beta1 {rules.ADAM_BETA1}, beta2 {rules.ADAM_BETA2}, epsilon {rules.ADAM_EPSILON:.0e}".replace("e-0", "e-"),
        f"weight decay {rules.WEIGHT_DECAY}, clip norm {rules.CLIP_NORM}",
        f"cosine to {rules.END_LR_FRACTION} x `MAX_LR` at step {rules.MAX_STEPS:,}",
        f"every {rules.EVAL_EVERY:,} sequences: at `GBS={usual.gbs}` every {interval} steps",
        f"log perplexity {rules.TARGET};",
        f"needs {point.mean:,} sequences on average at `GBS={usual.gbs}`",
        f"`MAX_LR=8e-4 WARMUP_STEPS={point.warmup_samples // point.global_batch_size}`",
        f"export TRAIN_PARTS={rules.PUBLISHED_PART} ",
    ):
        assert words in flowing(README), words
    assert point.learning_rate == 8e-4
    assert rules.RUNS_PER_SUBMISSION == 10 and "mean of ten seeds" in flowing(README)


# --- Commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, tiny_data: dict[str, str]) -> Path:
    """The repository as its user has it: config.sh filled in, here for a small model, and .venv made."""
    shutil.copy(REPOSITORY / "run_llama31.sh", tmp_path)
    (tmp_path / "llama31").symlink_to(REPOSITORY / "llama31")
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    filled = {**tiny_data, "SIZE": "tiny", "SEQ_LENGTH": 64, "EVAL_SAMPLES": 16}
    exports = "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in filled.items())
    (tmp_path / "config.sh").write_text((REPOSITORY / "config.sh").read_text() + exports)
    return tmp_path


DOCUMENTED = [README, page("running"), page("memory-and-layout")]
DRY_RUNS = [block for document in DOCUMENTED for block in blocks(document, "bash") if "--dryrun" in block]


@pytest.mark.parametrize("block", DRY_RUNS, ids=lambda block: block.splitlines()[-1])
def test_dry_runs_work(block: str, checkout: Path) -> None:
    done = bash(block, checkout)
    assert done.returncode == 0, done.stderr
    assert re.search(r"pretrain_llama31\.py RUN_DIR$", done.stdout, re.M)
    assert re.search(r"^  SIZE=tiny +config\w*\.sh$", done.stdout, re.M)
    for name in re.findall(r"\b([A-Z_]+)=", block.partition("--dryrun")[2]):
        assert re.search(rf"^  {name}=\S+ +command line$", done.stdout, re.M), done.stdout


HELP = [block for block in blocks(page("running"), "bash") if "--help" in block]


@pytest.mark.parametrize("block", HELP, ids=lambda block: block.splitlines()[-1])
def test_help_is_given(block: str, checkout: Path) -> None:
    done = bash(block, checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == block.count("--help")
    group: Any = typer.main.get_command(cli.app)
    assert all(re.search(rf"^  {verb} ", done.stdout, re.M) for verb in group.commands)


EXPORTS = [
    block
    for document in (README, page("running"))
    for block in blocks(document, "bash")
    if block.startswith("export PREPROCESSED_PATH") and "GPUS_PER_NODE" in block
]


@pytest.mark.parametrize("exports", EXPORTS, ids=["README.md", "running.md"])
def test_settings_to_fill_in_are_accepted(exports: str, checkout: Path) -> None:
    """All exports except paths, which do not exist here, and the part: the small data has both."""
    with (checkout / "config.sh").open("a") as config:
        config.write(re.sub(r"^export (\w+_PATH|TRAIN_PARTS)=.*\n", "", exports, flags=re.M))
    done = bash("source config.sh; bash run_llama31.sh --dryrun", checkout)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  GPUS_PER_NODE=8 +config\.sh$", done.stdout, re.M)
