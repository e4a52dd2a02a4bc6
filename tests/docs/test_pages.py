"""Form of README.md and docs/: one question a page, quick guidance first, links that resolve, bash that parses."""

import re
import subprocess
from pathlib import Path

from documents import DOCUMENTS, PAGES, README, REPOSITORY, anchors, blocks, code, every_document, page, text

from dev import settings_table, troubles_table

(IN_IMAGE,) = re.findall(r"^WORKDIR (\S+)$", (REPOSITORY / "Dockerfile").read_text(encoding="utf-8"), re.M)
"""Directory of this repository in the image."""
EXPECTED = {
    "architecture", "benchmark", "checkpoints", "container", "data", "gpu", "memory-and-layout", "performance",
    "reliability", "results", "running", "settings", "slurm", "submission", "troubleshooting", "tutorial",
}  # fmt: skip
WITHOUT_COMMANDS = {"architecture", "benchmark", "settings", "troubleshooting"}
LINK = re.compile(r"\]\((?!https://)([^)]+)\)")


def test_the_pages_are_the_planned_ones() -> None:
    assert {path.stem for path in PAGES} == EXPECTED


def test_each_page_opens_with_quick_guidance() -> None:
    for path in PAGES:
        lines = [line for line in text(path).splitlines() if line and not line.startswith("<!--")]
        assert lines[0].startswith("# "), path.name
        opening = lines[1 : next(number for number, line in enumerate(lines) if number > 1 and line[0] not in "- ")]
        bullets = [line for line in opening if line.startswith("- ")]
        assert 3 <= len(bullets) <= 5, f"{path.name} opens with {len(bullets)} bullets"


def test_the_readme_links_to_each_page() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall(text(README))}
    assert {f"docs/{name}.md" for name in EXPECTED} <= linked


@every_document
def test_links_resolve(document: Path) -> None:
    for target in LINK.findall(text(document)):
        file, _, anchor = target.partition("#")
        path = document.parent / file if file else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@every_document
def test_headings_are_unique(document: Path) -> None:
    """Else an anchor leads to the first of them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^ *```.*?^ *```$", "", text(document), flags=re.M | re.S), re.M)
    assert len(headings) == len(set(headings))


@every_document
def test_no_machine_is_named(document: Path) -> None:
    """Absolute paths are examples, below /data, or the image's own; addresses are public, or an example."""
    without_image = re.sub(rf"{IN_IMAGE}\b", "", text(document))
    assert set(re.findall(r"(?<![\w.:/>}-])/(\w+)/", without_image)) <= {"data"}
    public = re.compile(
        r"https://(download\.pytorch\.org/whl/cpu|\w+\.mlcommons-storage\.org(/.*)?|github\.com/NVIDIA/Megatron-LM)"
        r"|http://tracking:5000"
    )
    assert all(public.fullmatch(url) for url in re.findall(r"https?://[^\s)`\"]+", code(document)))


@every_document
def test_bash_blocks_are_bash(document: Path) -> None:
    found = blocks(document, "bash")
    assert found or document.stem in WITHOUT_COMMANDS
    for block in found:
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, f"{done.stderr}\n{block}"


def test_messages_of_the_code_name_pages_that_exist() -> None:
    sources = [path for name in ("llama31", "dev", "utils") for path in (REPOSITORY / name).rglob("*.*")]
    sources += [REPOSITORY / name for name in ("config.sh", "run_llama31.sh", "Dockerfile")]
    named = {
        name
        for path in sources
        if path.suffix in ("", ".py", ".sh", ".sbatch", ".j2")
        for name in re.findall(r"\bdocs/[\w-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert "docs/troubleshooting.md" in named
    assert named <= {str(path.relative_to(REPOSITORY)) for path in DOCUMENTS}


def test_the_page_of_settings_is_current() -> None:
    assert text(page("settings")) == settings_table.page(), "python3 -m dev.settings_table writes it"


def test_the_table_of_troubles_is_current() -> None:
    current = text(page("troubleshooting"))
    assert troubles_table.page(current) == current, "python3 -m dev.troubles_table writes it"


def test_the_tables_of_troubles_and_settings_are_replaced() -> None:
    """The generators find an outdated table, and change nothing else."""
    current = text(page("troubleshooting"))
    rows = [line for line in current.splitlines() if line.startswith("|")]
    assert troubles_table.page(current.replace(f"{rows[-1]}\n", "")) == current
    assert "`GBS`" in settings_table.row("GBS") and "`32`" in settings_table.row("GBS")
