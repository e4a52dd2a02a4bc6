"""The demo's output in docs/tutorial.md and README.md is what the code prints, figures aside."""

import io
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from documents import README, REPOSITORY, blocks, exported_by, page
from submissions import write_run

from dev import prepare_demo
from dev.support import benchmark_run
from llama31 import rules
from llama31.config import paths
from llama31.corpus import verify_table
from llama31.launch import prepare
from llama31.mlperf.check import submission
from llama31.plan.plan import Plan
from llama31.run_dir import summary
from llama31.run_dir.events import SUCCESS, Evaluation, Outcome, Step
from llama31.run_dir.metrics_file import MetricsWriter
from llama31.settings import Settings
from llama31.training.console_progress import ConsoleProgress

TUTORIAL = page("tutorial")


def masked(line: str) -> str:
    """A line of output with # for each figure and its unit, and one space between words."""
    line = re.sub(r"\d[\d,]*(\.\d+)?(e[-+]\d+)?", "#", line)
    line = re.sub(r"(#:)+#", "#", re.sub(r"# [kMGT]?(B|FLOP/s|FLOP)\b", r"# \1", line))
    return " ".join(line.split())


def quoted(document: Path, *beginnings: str) -> list[str]:
    """Lines of output in a document that begin so, without indentation; at least one for each beginning."""
    lines = [line.strip() for block in blocks(document, "text") for line in block.splitlines()]
    for beginning in beginnings:
        assert any(line.startswith(beginning) for line in lines), f"{document.name} shows no line {beginning!r}"
    return [line for line in lines if line.startswith(beginnings)]


def assert_printed(lines: Iterable[str], printed: str) -> None:
    """Each line is among those printed, figures aside."""
    known = {masked(line) for line in printed.splitlines()}
    unknown = [line for line in lines if masked(line) not in known]
    assert not unknown, f"{unknown} are not printed; what is: {sorted(known)}"


def test_the_plan_is_that_of_a_run(tiny_data: dict[str, str]) -> None:
    """The demo's settings, with less data."""
    small = {**tiny_data, "EVAL_SAMPLES": "8", "SEQ_LENGTH": "32"}
    resolved, data = prepare.checked([], {**exported_by("configs/config_demo.sh"), **small})
    printed = Plan(resolved, data, []).summary()
    beginnings = ("Llama 3.1 demo", "device", "world size", "global batch", "learning rate", "AdamW", "evaluation:")
    beginnings += ("ends without", "disk", "68.48 GFLOP", "starts from", "no checkpoint", "outside the closed", "- ")
    assert_printed(quoted(TUTORIAL, *beginnings), printed)
    assert_printed(quoted(README, "Llama 3.1 demo", "world size"), printed)


def test_progress_is_that_of_a_run() -> None:
    settings = Settings(size="demo", seq_length=256, gbs=8, gpus_per_node=2, target=4.9)
    out = io.StringIO()
    progress = ConsoleProgress(settings, 4096, 500, None, out)
    progress.run_started(0)
    progress.step_ended(Step(1, 8, 8.362, 1.36e-4, 1.5))
    for step, loss in ((50, 6.0485), (200, 4.83)):
        progress.evaluation_ended(Evaluation(step, step * 8, loss, 128, "0", 4.5, reached_target=loss <= 4.9))
    assert_printed(quoted(TUTORIAL, "training: ", "step ", "==> "), out.getvalue())
    assert_printed(quoted(README, "==> "), out.getvalue())


def test_the_summary_is_that_of_a_run(tmp_path: Path) -> None:
    settings = benchmark_run.SETTINGS
    with_steps = MetricsWriter(tmp_path / paths.METRICS)
    benchmark_run.train(with_steps, settings, benchmark_run.losses(settings.target)[:2])
    outcome = Outcome(SUCCESS, "validation loss 4.8300 reached TARGET=4.9", 0, 200, 1600, memory=1_200_000_000)
    printed = "\n".join(summary.lines(tmp_path, settings, outcome))
    shown = quoted(TUTORIAL, "success: ", "steps ", "validation loss ", "training loss ", "memory: ")
    assert_printed(shown, printed)
    assert_printed(quoted(README, "success: "), printed)


def test_the_verdict_is_that_of_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An open log of a run that reached its target, with the metrics beside it."""
    run_dir = write_run(tmp_path / "run", seed=1234, departures=["SIZE=demo: the closed division has 8b"])
    assert submission.check([run_dir], rules.RULESETS[-1]) == 0
    printed = capsys.readouterr().out.replace(str(run_dir), "runs/latest")
    facts = ("log: ", "benchmark: ", "system: ", "length: ", "time: ", "loss: ")
    verdicts = ("passes: ", "departs ", "rcp: ", "verdict: ")
    assert_printed(quoted(TUTORIAL, *verdicts), printed)
    assert_printed(quoted(README, "passes: ", "verdict: "), printed)
    titles = {line.partition(":")[0] for line in printed.splitlines()}
    assert {fact.removesuffix(": ") for fact in facts} <= titles
    assert len(quoted(TUTORIAL, *facts)) == len(facts)


def test_verify_prints_what_is_shown(tiny_data: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    preprocessed, tokenizer = Path(tiny_data["PREPROCESSED_PATH"]), Path(tiny_data["TOKENIZER_PATH"])
    verify_table.verify(preprocessed, tokenizer, 0)
    printed = capsys.readouterr().out.replace(str(tokenizer), "demo/tokenizer")
    assert_printed(quoted(TUTORIAL, "token file ", "token files: "), printed)


def test_commands_for_the_data_are_those_of_the_demo() -> None:
    """And what they print is in the sources: each piece between figures and paths."""
    sources = [*(REPOSITORY / "llama31" / "corpus").rglob("*.py"), Path(prepare_demo.__file__)]
    source = "".join(path.read_text(encoding="utf-8") for path in sources)
    (block,) = (block for block in blocks(TUTORIAL, "text") if "consolidate_data.sh" in block)
    lines = block.splitlines()
    commands = [line.split()[-1] for line in lines if line.startswith("$ ")]
    assert commands == re.findall(r'"(utils/\w+\.sh)"', Path(prepare_demo.__file__).read_text(encoding="utf-8"))
    for line in lines:
        if not line.startswith("$ "):
            pieces = re.split(r"[\d,]*\d(?:\.\d+)?|^[\w/.-]+: |\(\w+\)|[kMG]?B(?:/s)?\b|\bby gigatoken", line)
            for piece in filter(None, (piece.strip(" ,;():") for piece in pieces)):
                assert piece in source, f"{piece!r} of {line!r}"
