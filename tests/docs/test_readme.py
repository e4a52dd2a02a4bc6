"""README.md and docs/ held against the code: files, settings, verbs, figures, exit codes and commands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import typer
from benchmark_run import SETTINGS, write_log
from submissions import ten_runs, write_run

from dev import demo_tokenizer, settings_table
from llama31 import rules
from llama31.checkpoint import store
from llama31.checkpoint.convert import convert
from llama31.checkpoint.formats import hugging_face, nemo
from llama31.cli import main as cli
from llama31.common.errors import UserError
from llama31.config import paths, recompute
from llama31.config.model_sizes import ROTARY_BASE, SIZES, Shape
from llama31.config.resolve import resolve
from llama31.corpus import consolidate
from llama31.data.tokenizer import TOKENIZER_FILE
from llama31.estimates import memory, speed
from llama31.estimates.gpus import GB, GPUS
from llama31.mlperf.check import convergence, submission
from llama31.plan import validate
from llama31.run_dir import events
from llama31.run_dir.events import ABORTED, TARGET_NOT_REACHED, Outcome
from llama31.settings import Device, Division, RecomputeGranularity, Settings, names, to_dict

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
DATA = REPOSITORY / "docs" / "data.md"
DOCUMENTS = (README, *sorted((REPOSITORY / "docs").glob("*.md")))
TEXT = README.read_text(encoding="utf-8")
(IN_IMAGE,) = re.findall(r"^WORKDIR (\S+)$", (REPOSITORY / "Dockerfile").read_text(encoding="utf-8"), re.M)
"""Directory of this repository in the image."""
PLACEHOLDERS = {"JOB", "NAME", "RUN_DIR"}  # upper-case words of commands that a reader replaces
OF_LIBRARIES = {"SBATCH_ACCOUNT", "SBATCH_TIMELIMIT", "WANDB_MODE"}

Table = list[dict[str, str]]

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


# --- Reading Markdown ---------------------------------------------------------------------------------------------


def blocks(document: Path, language: str) -> list[str]:
    """Fenced code blocks of a language, without the indentation that a list gives them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", document.read_text(encoding="utf-8"), re.M | re.S)
    return [re.sub(rf"^{indent}", "", block, flags=re.M) for indent, block in found]


def code(document: Path) -> str:
    """All that stands in backticks or in a bash block, comments aside."""
    prose = re.sub(r"^ *```.*?^ *```$", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    commands = [re.sub(r"\s# .*", "", block) for block in blocks(document, "bash")]
    return "\n".join([*re.findall(r"`([^`]+)`", prose), *commands])


def tables() -> Iterator[Table]:
    """Tables of the README, each row as column title -> cell."""
    for lines in re.findall(r"(?:^\|.*\|\n)+", TEXT, re.M):
        titles, _, *rows = (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines.splitlines()
        )
        yield [dict(zip(titles, row, strict=True)) for row in rows]


def table(title: str) -> Table:
    """Rows of all tables whose first column has this title."""
    found = [row for rows in tables() if next(iter(rows[0])) == title for row in rows]
    assert found, f"no table begins with {title!r}"
    return found


def identifier(words: str) -> str:
    """Words of a reader as a name in the code: Key-value heads -> key_value_heads."""
    return re.sub(r"[ -]", "_", words).lower()


def shown(value: object) -> str:
    """A value of the code as tables show it."""
    if isinstance(value, int):
        return f"{value:,}"
    return re.sub(r"e([-+])0+", r"e\1", f"{value:g}") if isinstance(value, float) else str(value)


def number(cell: str) -> float:
    """A figure of a table."""
    return float(cell.replace(",", ""))


# --- Names --------------------------------------------------------------------------------------------------------


def ignored(name: str) -> bool:
    """What commands make in the checkout, such as runs/."""
    return re.search(rf"^/{re.escape(name)}[/*]", (REPOSITORY / ".gitignore").read_text(), re.M) is not None


def run_dir_files() -> set[str]:
    """Names that a run directory may hold."""
    return {value for name, value in vars(paths).items() if name.isupper() and isinstance(value, str)}


def checkpoint_files() -> set[str]:
    """Names that a checkpoint may hold, of a run, of Hugging Face or one that was converted."""
    return {store.MANIFEST, nemo.WEIGHTS, nemo.CONTEXT, hugging_face.CONFIG, convert.RECORD}


def data_files() -> set[str]:
    """Names of the benchmark's data, without extension."""
    data = (*map(rules.train_part_name, rules.BENCHMARK_PARTS), rules.validation_name(rules.VALIDATION_DOCUMENTS))
    return {TOKENIZER_FILE, *map(rules.token_file_name, data)}


@every_document
def test_files_exist(document: Path) -> None:
    text = code(document)
    mentioned = set(re.findall(r"(?<![\w/.$-])(?:\.?\w[\w.-]*/)+(?:[\w.-]*\w)?", text))
    mentioned |= set(re.findall(r"(?<![\w/.$-])\w[\w-]*\.(?:sh|py|md|toml|txt|lock|yaml|json|jsonl|log)\b(?!/)", text))
    mentioned |= set(re.findall(r"\bc4-[\w.-]*_text_document[\w.]*", text))
    assert len(mentioned) > 3
    for name in mentioned - run_dir_files() - checkpoint_files() - data_files() - {paths.slurm_log("JOB")}:
        assert (REPOSITORY / name).exists() or ignored(name.split("/")[0]), f"{document.name} names {name}"


@every_document
def test_no_machine_is_named(document: Path) -> None:
    """Absolute paths are examples, below /data, or the image's own; addresses are PyTorch's and MLCommons'."""
    text = re.sub(rf"{IN_IMAGE}\b", "", document.read_text(encoding="utf-8"))
    assert set(re.findall(r"(?<![\w.:/>}-])/(\w+)/", text)) <= {"data"}
    public = re.compile(r"https://(download\.pytorch\.org/whl/cpu|\w+\.mlcommons-storage\.org(/.*)?)")
    assert all(public.fullmatch(url) for url in re.findall(r"https?://[^\s)`\"]+", code(document)))


def anchors(document: Path) -> set[str]:
    """What a link can lead to within a document: its headings, in GitHub's form."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_code_in_the_image_is_named() -> None:
    """Where the Dockerfile copies the repository to is what CODE_PATH must be."""
    section = TEXT[TEXT.index("### Jobs in a container") :].split("\n### ")[0]
    assert f"`CODE_PATH={IN_IMAGE}`" in section
    assert "\nCOPY . .\n" in (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https://)([^)]+)\)", document.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        path = document.parent / file if file else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def tree() -> Iterator[tuple[Path, str]]:
    """Each path of the README's tree with its note."""
    block = blocks(README, "text")[0]
    parents: list[str] = []
    for line in block.splitlines():
        match = re.fullmatch(r"((?:    )*)(\S+) +(\S.*)", line)
        assert match, f"no path and note: {line}"
        depth = len(match[1]) // 4
        parents[depth:] = [match[2]]
        yield Path(*parents), match[3]


def test_tree_is_what_is_there() -> None:
    found = [path for path, _ in tree()]
    for path in found:
        assert (REPOSITORY / path).exists(), path
    assert len(found) == len(set(found))
    package = REPOSITORY / "llama31"
    needed = set(package.glob("[a-z]*.py")) | {path.parent for path in package.glob("**/__init__.py")}
    needed |= {path for path in REPOSITORY.iterdir() if path.is_dir() and path.name.isalnum() and any(path.iterdir())}
    for path in sorted(path.relative_to(REPOSITORY) for path in needed):
        assert path in found or ignored(path.name), f"{path} is not in the tree"


@every_document
def test_settings_exist(document: Path) -> None:
    """An upper-case name is a setting, or a variable that a script other than config.sh knows."""
    scripts = [*REPOSITORY.glob("dev/*.sh"), *REPOSITORY.glob("utils/*.sh"), REPOSITORY / "run_llama31.sh"]
    scripts.append(REPOSITORY / "Dockerfile")
    known = set(re.findall(r"\w+", "\n".join(script.read_text() for script in scripts)))
    text = re.sub(r"[\w./-]*\.(?:md|txt)\b|\bLICENSE\b", "", code(document))
    mentioned = set(re.findall(r"(?<![\w./-])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*(?![\w./-])", text))
    assert len(mentioned) > 3
    assert mentioned - set(names()) - set(GPUS) - PLACEHOLDERS - OF_LIBRARIES <= known


@every_document
def test_values_given_to_settings_are_of_their_type(document: Path) -> None:
    given = [pair for pair in re.findall(r"\b[A-Z_]+=[^\s`;]+", code(document)) if pair.partition("=")[0] in names()]
    assert given
    for pair in given:
        resolve([pair], {})


@every_document
def test_verbs_and_their_flags_exist(document: Path) -> None:
    group: Any = typer.main.get_command(cli.app)
    known = {
        verb: {"--help"} | {option for parameter in command.params for option in parameter.opts}
        for verb, command in group.commands.items()
    }
    text = code(document).replace("\\\n", " ")
    for verb, rest in re.findall(r"-m llama31 ([a-z]\w*)(.*)", text):
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known[verb], f"{verb}{rest}"
    sources = "\n".join(path.read_text() for path in (REPOSITORY / "llama31").glob("*.py"))
    for flag in re.findall(r"^--[a-z-]+", text, re.M):  # named by itself, in backticks
        assert any(flag in flags for flags in known.values()) or f'"{flag}"' in sources, flag


# --- Figures ------------------------------------------------------------------------------------------------------


def test_the_tables_of_settings_are_those_of_the_code() -> None:
    assert settings_table.renewed(TEXT) == TEXT, "python3 -m dev.settings_table writes them anew"
    described = {row["Setting"].strip("`"): row["Meaning"] for row in table("Setting")}
    assert list(described) == names(), "config.sh and the README have the settings in the order of the code"
    assert described["PRECISION"].startswith("Arithmetic: bf16 \\| fp8 ")


def test_the_two_commands_come_first() -> None:
    beginning = "\n".join(TEXT.splitlines()[:40])
    for command in ("bash dev/demo.sh", "bash dev/test.sh"):
        assert re.search(rf"^{command}\b", beginning, re.M), command


def test_rules_are_those_of_the_code() -> None:
    rows = table("Rule")
    for row in rows:
        value = getattr(rules, identifier(row["Rule"]).upper())
        assert row["Value"] == shown(value) or number(row["Value"]) == value, row
        if row.get("Setting"):
            assert to_dict(Settings())[row["Setting"].strip("`").lower()] == value, row
    shown_rules = {identifier(row["Rule"]).upper() for row in rows}
    fixed = {name for name in vars(rules) if re.match("ADAM_|EVAL_|VALIDATION_", name)}
    assert fixed <= shown_rules


def test_figures_within_the_text_follow_from_the_rules() -> None:
    usual = Settings()
    interval = rules.steps_between_evaluations(usual.eval_every, usual.gbs)
    first, last = (consolidate.part_shards(part) for part in rules.BENCHMARK_PARTS)
    point = rules.REFERENCE_POINTS[usual.gbs]
    for words in (
        "Python 3.10 to 3.12",
        f"loss reaches {rules.TARGET}",
        f"`{rules.BENCHMARK}`",
        f"the last {len(first) + len(last)} shards, which are parts {usual.train_parts.replace(' ', ' and ')}",
        f"shards {first[0]} to {first[-1]}, part {rules.BENCHMARK_PARTS[1]} shards {last[0]} to {last[-1]}",
        f"the first {usual.eval_samples:,} sequences",
        f"{usual.eval_samples * usual.seq_length:,} tokens",
        f"at `GBS={usual.gbs}` that is {interval} steps",
        f"{usual.warmup} at `GBS={usual.gbs}`",
        f"`WARMUP_STEPS={point.warmup_samples // point.global_batch_size}` at `GBS={usual.gbs}`",
        f"rulesets {', '.join(rules.RULESETS[:-1])} and {rules.RULESETS[-1]}",
    ):
        assert words in re.sub(r"\s+", " ", TEXT), words
    steps = [point.mean / point.global_batch_size for point in rules.REFERENCE_POINTS.values()]
    assert max(steps) < rules.MAX_STEPS / 100, "a run of the reference ends within the schedule's first hundredth"
    free = re.search(r"Free in the closed division: (.*?), the seed", TEXT, re.S)
    assert free and not set(re.findall(r"`(\w+)`", free[1])) & {
        row.get("Setting", "").strip("`") for row in table("Rule")
    }


def test_model_table_is_that_of_the_sizes() -> None:
    rows = {identifier(row.pop("")): row for row in table("")}
    vocabularies = rows.pop(identifier("Vocabulary, its tokenizer's"))
    parameters = rows.pop("parameters")
    assert list(vocabularies) == list(SIZES)
    assert rows == {
        field.name: {size: shown(getattr(shape, field.name)) for size, shape in SIZES.items()}
        for field in fields(Shape)
    }
    assert vocabularies["demo"] == shown(demo_tokenizer.VOCABULARY)
    assert vocabularies["tiny"] == shown(tiny.VOCABULARY)
    for size, shape in SIZES.items():
        assert parameters[size] == shown(shape.parameters(int(number(vocabularies[size]))))
    assert f"base {ROTARY_BASE:,}" in TEXT


def test_reference_points_are_those_of_the_rules() -> None:
    points = [{identifier(title): number(cell) for title, cell in row.items()} for row in table("Global batch size")]
    assert points == [vars(point) for point in rules.REFERENCE_POINTS.values()]


def test_systems_are_those_of_the_configurations() -> None:
    rows = {row.pop("Configuration").strip("`"): row for row in table("Configuration")}
    assert set(rows) == {f"configs/{path.name}" for path in (REPOSITORY / "configs").glob("config_*x*.sh")}
    for config, row in rows.items():
        settings = resolve([], exported_by(config)).settings
        for title, cell in row.items():
            if title.startswith("`"):
                assert number(cell) == getattr(settings, title.strip("`").lower()), (config, title)
        gpu, vocabulary = GPUS[settings.gpu], rules.VOCABULARY_SIZE
        needed, selective, full = (
            memory.per_gpu(recompute.instead(settings, granularity), vocabulary).total
            for granularity in RecomputeGranularity
        )
        assert settings.recompute_granularity is RecomputeGranularity.none, config
        operations = speed.flops_to(rules.REFERENCE_POINTS[settings.gbs].mean, settings, vocabulary)
        figures = {
            "Tensor parallel": str(settings.tensor_parallel_size),
            "GB needed": f"{needed / GB:.1f}",
            "GB there": f"{gpu.memory / GB:.0f}",
            "FFNs recomputed": f"{selective / GB:.1f}",
            "Layers recomputed": f"{full / GB:.1f}",
            "Hours": f"{speed.seconds(operations, settings, gpu) / 3600:.1f}",
        }
        assert {title: row[title] for title in figures} == figures, config
    assert f"an allowance of {memory.ALLOWANCE // GB} GB" in TEXT
    shares = [f"{share:.0%}" for share in speed.UTILISATION.values()]
    assert f"{shares[0]} of the GPU's peak in bf16, and {shares[1]} of the bf16 peak in fp8" in TEXT.replace("\n", " ")


def test_what_recomputation_saves_and_costs() -> None:
    rows = {row.pop("`RECOMPUTE_GRANULARITY`").strip("`"): row for row in table("`RECOMPUTE_GRANULARITY`")}
    assert list(rows) == [granularity.name for granularity in RecomputeGranularity]
    for name, row in rows.items():
        settings = recompute.instead(Settings(), RecomputeGranularity[name])
        kept = memory.per_gpu(settings, rules.VOCABULARY_SIZE).activations
        more = speed.recomputed_per_token(settings) / speed.flops_per_token(settings, rules.VOCABULARY_SIZE)
        assert (row["Activations, GB"], row["Operations more"]) == (f"{kept / GB:.1f}", f"{more:.0%}"), name


def test_the_refusal_shown_is_that_of_a_run(benchmark_data: dict[str, str]) -> None:
    given = [f"{name}={value}" for name, value in benchmark_data.items()]
    exported = exported_by("configs/config_H200_1x8.sh")
    _, (line,) = validate.look(resolve([*given, "MBS=2"], exported).settings)
    assert any(line in block.splitlines() for block in blocks(README, "text"))


def test_exit_codes_are_those_of_a_run() -> None:
    codes = {value: name for name, value in vars(events).items() if name.isupper() and isinstance(value, int)}
    rows = {int(row["Exit code"]): row["Meaning"] for row in table("Exit code")}
    assert set(rows) == {0, *codes}
    for value, name in {0: events.SUCCESS, **codes}.items():
        assert re.match(name.lower().replace("_", " "), rows[value]), f"{value} is {name}: {rows[value]}"


def test_verdicts_are_those_of_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log of the closed division, one with a departure, and one that did not reach its target."""
    logs = {
        write_log(tmp_path / "closed.log"): 0,
        write_log(tmp_path / "open.log", departures=["TARGET=3.3: for the sake of argument"]): 0,
        write_log(tmp_path / "failed.log", outcome=Outcome(ABORTED, "x", TARGET_NOT_REACHED, 1, SETTINGS.gbs)): 1,
    }
    for (log, exit_code), row in zip(logs.items(), table("Verdict begins with"), strict=True):
        assert submission.check([log], rules.RULESETS[-1]) == exit_code == int(row["Exit code"])
        assert f"\nverdict: {row['Verdict begins with']}" in capsys.readouterr().out


def test_verdicts_over_several_are_those_of_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten runs, two of them, two with a departure, and two with one seed; convergence as the rows say, in each case."""
    small = replace(SETTINGS, submission_division=Division.open)
    runs = ten_runs(tmp_path / "ten")
    opened = [write_run(tmp_path / f"open-{seed}", small, seed=seed) for seed in (1, 2)]
    same = [write_run(tmp_path / f"same-{number}", seed=1, evaluations=15) for number in (1, 2)]
    rows = table("Verdict over several begins with")
    for given, row in zip((runs, runs[:2], opened, same), rows, strict=True):
        assert submission.check(given, rules.RULESETS[-1]) == int(row["Exit code"])
        assert f"\nverdict: {row['Verdict over several begins with']}" in capsys.readouterr().out


def test_words_on_convergence_are_those_of_check() -> None:
    points = convergence.Points(rules.RULESETS[-1])
    source = Path(convergence.__file__).read_text(encoding="utf-8") + Path(submission.__file__).read_text(
        encoding="utf-8"
    )
    words = [row["Convergence"] for row in table("Convergence")]
    early = [([], []), ([184_320], []), ([208_896] * 3, []), ([147_456] * 3, [])]
    for given, word in zip(early, words[2:], strict=False):
        assert points.early(32, *given).words.startswith(word), word
    assert all(re.search(rf"\b{word}", source) for word in words)


def test_run_directory_is_described() -> None:
    rows = {row["In the run directory"].strip("`") for row in table("In the run directory")}
    submitted = {row["For each experiment"].strip("`") for row in table("For each experiment")}
    assert submitted == {paths.SCRIPT, paths.SUBMISSION, paths.slurm_log("JOB"), "job-JOB", paths.LATEST}
    assert rows | submitted == run_dir_files() | {paths.slurm_log("JOB"), "job-JOB"}


# --- Commands -----------------------------------------------------------------------------------------------------


@every_document
def test_bash_blocks_are_bash(document: Path) -> None:
    found = blocks(document, "bash")
    assert found
    for block in found:
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, f"{done.stderr}\n{block}"


def bash(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script in `directory`, with no setting in its environment."""
    kept = {
        name: value for name, value in os.environ.items() if name not in names() and not name.startswith("LLAMA31_")
    }
    command = ["bash", "-euc", script]
    return subprocess.run(command, cwd=directory, env=kept, capture_output=True, text=True, timeout=60, check=False)


@cache
def exported_by(config: str) -> dict[str, str]:
    """Variables of an environment that sourced a config file."""
    done = bash(f"source {config}; env -0", REPOSITORY)
    assert done.returncode == 0, done.stderr
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)


@every_document
def test_settings_of_commands_fit_together(document: Path) -> None:
    """Whatever device and data they need: with these settings the commands would start."""
    commands = re.findall(r"^bash (dev/demo|run_llama31)\.sh\b([^#\n]*)", "\n".join(blocks(document, "bash")), re.M)
    assert commands
    for script, rest in commands:
        config = "configs/config_demo.sh" if script == "dev/demo" else "config.sh"
        given = [word for word in rest.split() if word != "--dryrun"]
        settings = resolve(given, exported_by(config)).settings
        if settings.device is Device.auto:
            settings = replace(settings, device=Device.cuda)
        try:
            validate.check(settings)
        except UserError as error:  # only that the data is not here
            lines = [line for line in error.lines if not line.startswith(("PREPROCESSED_PATH", "TOKENIZER_PATH"))]
            assert not lines, f"{script}{rest}"


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


DRY_RUNS = [block for block in blocks(README, "bash") if "--dryrun" in block]


@pytest.mark.parametrize("block", DRY_RUNS, ids=lambda block: block.splitlines()[-1])
def test_dry_runs_work(block: str, checkout: Path) -> None:
    done = bash(block, checkout)
    assert done.returncode == 0, done.stderr
    assert re.search(r"pretrain_llama31\.py RUN_DIR$", done.stdout, re.M)
    assert re.search(r"^  SIZE=tiny +config\w*\.sh$", done.stdout, re.M)
    for name in re.findall(r"--dryrun.*?\b([A-Z]+)=", block):
        assert re.search(rf"^  {name}=\S+ +command line$", done.stdout, re.M), done.stdout


HELP = [block for block in blocks(README, "bash") if "--help" in block]


@pytest.mark.parametrize("block", HELP, ids=lambda block: block.splitlines()[-1])
def test_help_is_given(block: str, checkout: Path) -> None:
    done = bash(block, checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == block.count("--help")
    group: Any = typer.main.get_command(cli.app)
    assert all(re.search(rf"^  {verb} ", done.stdout, re.M) for verb in group.commands)


def test_settings_to_fill_in_are_taken(checkout: Path, tiny_data: dict[str, str]) -> None:
    """The exports that the README gives, but for the paths, which are not here."""
    (exports,) = (block for block in blocks(README, "bash") if block.startswith("export PREPROCESSED_PATH"))
    with (checkout / "config.sh").open("a") as config:
        config.write(re.sub(r"^export \w+_PATH=.*\n", "", exports, flags=re.M))
    done = bash("source config.sh; bash run_llama31.sh --dryrun", checkout)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  GPUS_PER_NODE=8 +config\.sh$", done.stdout, re.M)


def test_data_is_prepared_in_the_benchmarks_order() -> None:
    """Each script of utils/ that a user calls; what the commands do is tested in test_demo_corpus.py."""
    section = TEXT[TEXT.index("\n### 2. Data\n") : TEXT.index("\n### 3. Settings\n")]
    called = re.findall(
        r"utils/(\w+\.sh)(?: (\w+)$)?|-m llama31 (verify)", "\n".join(re.findall(r"^[^`#].*$", section, re.M)), re.M
    )
    assert [" ".join(filter(None, words)) for words in called] == [
        "download_data.sh preprocessed",
        "download_data.sh tokenizer",
        "download_data.sh raw",
        "parallel_compress_json_to_gz.sh",
        "consolidate_data.sh",
        "download_hf_llama3.sh",
        "preprocess.sh",
        "preprocess.sh",
        "verify",
    ]


def test_tokenize_commands_name_the_benchmarks_files(checkout: Path, tmp_path: Path) -> None:
    """The block with stand-ins for python3 and zcat that print what they were given."""
    (block,) = (block for block in blocks(DATA, "bash") if "--output-prefix" in block)
    stand_ins = "python3() { printf '%s\\n' \"$@\"; }\nzcat() { printf '%s\\n' \"$@\" >&2; }\n"
    block = block.replace("source .venv/bin/activate\n", stand_ins)
    block = re.sub(r">/data/c4/(\S+)", r">\1", block)
    done = bash(block, tmp_path)
    assert done.returncode == 0, done.stderr
    words = [Path(word).name for word in done.stdout.split()]
    part = rules.BENCHMARK_PARTS[0]
    validation = rules.validation_name(rules.VALIDATION_DOCUMENTS)
    shards = [rules.train_shard_name(shard) for shard in consolidate.part_shards(part)]
    inputs = [word for option, word in pairwise(words) if option == "--input"]
    assert inputs == [*shards, f"{validation}.json"]
    outputs = [word for option, word in pairwise(words) if option == "--output-prefix"]
    assert outputs == [rules.token_file_name(rules.train_part_name(part)), rules.token_file_name(validation)]
    shards = [rules.validation_shard_name(shard) for shard in range(rules.VALIDATION_SHARDS)]
    assert [Path(word).name for word in done.stderr.split()] == shards
    assert (tmp_path / f"{validation}.json").is_file()
    assert f"head -n {rules.VALIDATION_DOCUMENTS} " in block
