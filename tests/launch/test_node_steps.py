"""How a run ends that cannot start, since a node could not be prepared."""

from pathlib import Path

import pytest

from llama31.common.errors import UserError
from llama31.launch import node_steps
from llama31.run_dir import record
from llama31.run_dir.events import BAD_INPUT, INTERRUPTED
from llama31.settings import Settings

COPYING = Settings(copy_data_to="/node")


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (UserError(["one", "another"]), BAD_INPUT, "one; another"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted before training started"),
    ],
    ids=["refused", "interrupted"],
)
def test_the_outcome_says_why(
    error: BaseException, code: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Settings) -> None:
        raise error

    monkeypatch.setattr(node_steps.node_copy, "ensure", fails)
    assert node_steps.prepare(tmp_path, Settings()) is None
    outcome = node_steps.prepare(tmp_path, COPYING)
    assert outcome == record.load_outcome(tmp_path)
    assert outcome and (outcome.exit_code, outcome.reason) == (code, reason)
