"""What repeats a run, and what has changed since; tests/end_to_end/test_run.py repeats one for real."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from runs import arguments, environment

from llama31.cli import launch
from llama31.common.errors import UserError
from llama31.common.files import sha256_of
from llama31.config import paths
from llama31.config.resolve import resolve
from llama31.launch import local, prepare, provenance
from llama31.run_dir import record, summary

ENDED = """
import sys
from pathlib import Path
from llama31.run_dir import record
from llama31.run_dir.events import Outcome
record.store_outcome(Path(sys.argv[1]), Outcome("success", "it did", 0, 5, 40))
"""


@pytest.fixture
def run_dir(usual: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that ended, with data of its own; something else stood in the place of its ranks."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "command", lambda _, run_dir: [sys.executable, "-c", ENDED, str(run_dir)])
    data = shutil.copytree(usual["PREPROCESSED_PATH"], tmp_path / "own data")
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    given = {**usual, "PREPROCESSED_PATH": str(data), "GBS": "4", "TAG": "it's $HOME"}
    assert launch.run(arguments(given)) == 0
    return (Path(usual["JOB_DIR"]) / "latest").resolve()


def test_nothing_changed(run_dir: Path) -> None:
    (command,) = provenance.replay(run_dir)
    words = shlex.split(command)
    assert words[:2] == ["bash", str(paths.REPOSITORY / "run_llama31.sh")]
    again = prepare.with_absolute_paths(resolve(words[2:], {})).settings
    assert again == record.load_settings(run_dir), "the seed that was drawn included"


def test_a_record_with_the_hash_of_the_tokenizers_file(run_dir: Path) -> None:
    """As records were before."""
    described = json.loads((run_dir / paths.RECORD).read_text())
    tokenizer = Path(record.load_settings(run_dir).tokenizer_path) / "tokenizer.json"
    described["data"]["tokenizer"] = sha256_of(tokenizer)
    (run_dir / paths.RECORD).write_text(json.dumps(described))
    (_,) = provenance.replay(run_dir)


def test_settings_that_are_exported_now_do_not_change_it(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"GBS": "16", "MAX_LR": "1", "TARGET": "2"}.items():
        monkeypatch.setenv(name, value)
    (command,) = provenance.replay(run_dir)
    again = prepare.with_absolute_paths(resolve(shlex.split(command)[2:], os.environ)).settings
    assert again == record.load_settings(run_dir)


def test_changes_are_reported(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    monkeypatch.setenv("PYTHONPATH", "/another")  # irrelevant to the run
    settings = record.load_settings(run_dir)
    manifest = next(Path(settings.preprocessed_path).glob("c4-train.en_7*.json"), None)
    if manifest:
        manifest.write_text(manifest.read_text() + "\n")
    described = json.loads((run_dir / paths.RECORD).read_text())
    described |= {"commit": "0" * 40, "versions": {**described["versions"], "torch": "1.0", "apex": "0.1"}}
    (run_dir / paths.RECORD).write_text(json.dumps(described))
    command, *differences = provenance.replay(run_dir, ["TAG=again"])
    assert command.startswith("env -u NCCL_ALGO NCCL_DEBUG=WARN bash ") and command.endswith(" TAG=again")
    assert "was set to: NCCL_DEBUG=WARN" in differences and "was not set: NCCL_ALGO=Ring" in differences
    starts = ["commit: was 0000", "versions torch: was 1.0, is 2.", "versions apex: was 0.1, is not there"]
    starts += ["data c4-train.en_7_text_document: was "] if manifest else []
    for start in starts:
        assert sum(line.startswith(start) for line in differences) == 1, (start, differences)
    assert len(differences) == 2 + len(starts)


def test_missing_data_is_reported(run_dir: Path) -> None:
    shutil.rmtree(record.load_settings(run_dir).preprocessed_path)
    assert "data: was recorded, is not there" in list(provenance.replay(run_dir))


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run directory"):
        list(provenance.replay(tmp_path))


@pytest.mark.parametrize("content", ["[]", "{", '{"environment": []}', "\udc80"])
def test_a_damaged_record_is_a_line(run_dir: Path, content: str) -> None:
    (run_dir / paths.RECORD).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"run\.json: (not JSON: |not a JSON object$|damaged \()"):
        list(provenance.replay(run_dir))


def test_damaged_metrics_are_a_line(run_dir: Path) -> None:
    (run_dir / paths.METRICS).write_bytes(b'{"event": "step"\xff\n{}\n')
    outcome = record.load_outcome(run_dir)
    assert outcome
    with pytest.raises(UserError, match=r"metrics\.jsonl: damaged: "):
        list(summary.lines(run_dir, record.load_settings(run_dir), outcome))
