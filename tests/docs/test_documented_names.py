"""Names in README.md and docs/: files, settings and their values, verbs, options; and whether commands would start."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from documents import README, REPOSITORY, blocks, code, every_document, exported_by, page, text

from llama31 import rules
from llama31.checkpoint import store
from llama31.checkpoint.convert import convert
from llama31.checkpoint.formats import hugging_face, nemo
from llama31.cli import main as cli
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.config.resolve import resolve
from llama31.data.tokenizer import TOKENIZER_FILE
from llama31.doctor import step_token
from llama31.estimates.gpus import GPUS
from llama31.plan import validate
from llama31.settings import Device, names

PLACEHOLDERS = {"HOST", "JOB", "NAME", "RUN_DIR"}  # upper-case words of commands that a reader replaces
OF_LIBRARIES = {"SBATCH_ACCOUNT", "SBATCH_TIMELIMIT", "WANDB_MODE"}
PACKAGE = REPOSITORY / "llama31"
OVERVIEW = "architecture"
"""The page on the package: its paths start there, and it need not name a setting or a command."""
WITHOUT_RUNS = {OVERVIEW, "benchmark", "container", "data", "reliability", "results", "settings", "troubleshooting"}
"""Pages whose commands start no run."""


def ignored(name: str) -> bool:
    """Return whether commands create it in the checkout, such as runs/."""
    return re.search(rf"^/{re.escape(name)}[/*]", (REPOSITORY / ".gitignore").read_text(), re.M) is not None


def run_dir_files() -> set[str]:
    """Names that a run directory may hold."""
    return {value for name, value in vars(paths).items() if name.isupper() and isinstance(value, str)}


def checkpoint_files() -> set[str]:
    """Names in a checkpoint, of a run, of Hugging Face or a converted one."""
    return {store.MANIFEST, nemo.WEIGHTS, nemo.CONTEXT, hugging_face.CONFIG, convert.RECORD}


def data_files() -> set[str]:
    """Names of the benchmark's data, without extension."""
    data = (*map(rules.train_part_name, rules.BENCHMARK_PARTS), rules.validation_name(rules.VALIDATION_DOCUMENTS))
    return {TOKENIZER_FILE, *map(rules.token_file_name, data)}


def files_named(document: Path) -> set[str]:
    """Paths and file names that a document mentions in backticks and commands."""
    source = code(document)
    found = set(re.findall(r"(?<![\w/.$-])(?:\.?\w[\w.-]*/)+(?:[\w.-]*\w)?", source))
    found |= set(re.findall(r"(?<![\w/.$-])\w[\w-]*\.(?:sh|py|md|toml|txt|lock|yaml|json|jsonl|log)\b(?!/)", source))
    return found | set(re.findall(r"\bc4-[\w.-]*_text_document[\w.]*", source))


@every_document
def test_files_exist(document: Path) -> None:
    named = files_named(document)
    assert len(named) > 1 or document.stem == OVERVIEW
    elsewhere = (
        run_dir_files()
        | checkpoint_files()
        | data_files()
        | {paths.slurm_log("JOB"), paths.runs_log("JOB"), "logs/torchrun.log"}
    )
    roots = [REPOSITORY, REPOSITORY / "llama31"] if document.stem == OVERVIEW else [REPOSITORY]
    for name in named - elsewhere:
        made = ignored(name.split("/")[0]) or name == "report.html"
        assert made or any((root / name).exists() for root in roots), f"{document.name} names {name}"


def test_the_search_for_files_finds_them() -> None:
    assert {"dev/demo.sh", "configs/", "llama31/recipe.py", "config.sh"} <= files_named(README)
    assert {"utils/preprocess.sh", "llama31/rules.py", "tests/data/test_datasets.py"} <= files_named(page("data"))


@every_document
def test_settings_exist(document: Path) -> None:
    """An upper-case name is a setting, or a variable that a script other than config.sh knows."""
    scripts = [*REPOSITORY.glob("dev/*.sh"), *REPOSITORY.glob("utils/*.sh"), REPOSITORY / "run_llama31.sh"]
    scripts.append(REPOSITORY / "Dockerfile")
    known = set(re.findall(r"\w+", "\n".join(script.read_text() for script in scripts)))
    source = re.sub(r"[\w./-]*\.(?:md|txt)\b|\bLICENSE\b", "", code(document))
    mentioned = set(re.findall(r"(?<![\w./-])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*(?![\w./-])", source))
    assert len(mentioned) > 1 or document.stem == OVERVIEW
    assert mentioned - set(names()) - set(GPUS) - PLACEHOLDERS - OF_LIBRARIES - {step_token.VARIABLE} <= known


@every_document
def test_values_given_to_settings_are_of_their_type(document: Path) -> None:
    given = [pair for pair in re.findall(r"\b[A-Z_]+=[^\s`;]+", code(document)) if pair.partition("=")[0] in names()]
    assert given or document.stem == OVERVIEW
    for pair in given:
        resolve([pair], {})


@every_document
def test_verbs_and_their_flags_exist(document: Path) -> None:
    group: Any = typer.main.get_command(cli.app)
    known = {
        verb: {"--help"} | {option for parameter in command.params for option in parameter.opts}
        for verb, command in group.commands.items()
    }
    source = code(document).replace("\\\n", " ")
    for verb, rest in re.findall(r"-m llama31 ([a-z]\w*)(.*)", source):
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known[verb], f"{verb}{rest}"
    sources = "\n".join(path.read_text() for path in (REPOSITORY / "llama31").rglob("*.py"))
    for flag in re.findall(r"^--[a-z-]+", source, re.M):  # named separately, in backticks
        assert any(flag in flags for flags in known.values()) or f'"{flag}"' in sources, flag


def test_each_verb_is_documented() -> None:
    group: Any = typer.main.get_command(cli.app)
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in REPOSITORY.glob("utils/*.sh"))
    everything = "\n".join([*(text(document) for document in (REPOSITORY / "docs").glob("*.md")), scripts])
    for verb in group.commands:
        called = rf"(-m llama31|llama31\.sh\"?) {verb}\b|^bash run_llama31\.sh" if verb == "run" else ""
        assert re.search(called or rf"(-m llama31|llama31\.sh\"?) {verb}\b", everything, re.M), verb


def test_each_configuration_is_documented() -> None:
    everything = "\n".join(text(document) for document in (REPOSITORY / "docs").glob("*.md"))
    for config in (REPOSITORY / "configs").rglob("*.sh"):
        assert f"`{config.relative_to(REPOSITORY)}`" in everything, config.name


@every_document
def test_settings_of_commands_fit_together(document: Path) -> None:
    """For the device and data that they need, commands with these settings would start."""
    commands = re.findall(r"^bash (dev/demo|run_llama31)\.sh\b([^#\n]*)", "\n".join(blocks(document, "bash")), re.M)
    assert commands or document.stem in WITHOUT_RUNS
    for script, rest in commands:
        config = "configs/config_demo.sh" if script == "dev/demo" else "config.sh"
        given = [word for word in rest.split() if not word.startswith("--")]
        settings = resolve(given, exported_by(config)).settings
        if settings.device is Device.auto:
            settings = replace(settings, device=Device.cuda)
        try:
            validate.check(settings)
        except UserError as error:  # only that the data is not here
            lines = [line for line in error.lines if not line.startswith(("PREPROCESSED_PATH", "TOKENIZER_PATH"))]
            assert not lines, f"{script}{rest}: {lines}"


def test_the_code_in_the_image_is_named() -> None:
    """CODE_PATH must be the directory to which the Dockerfile copies the repository."""
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    (in_image,) = re.findall(r"^WORKDIR (\S+)$", dockerfile, re.M)
    section = text(page("slurm")).partition("## Jobs in a container")[2].split("\n## ")[0]
    assert f"`CODE_PATH={in_image}`" in section
    assert "\nCOPY . .\n" in dockerfile
