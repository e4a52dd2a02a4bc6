"""A rank that sleeps in a collective: all ranks write their stacks, the launcher says where they stand, the next job
resumes."""

import re
import socket
from pathlib import Path
from typing import Any

import oracle
import pytest
from hanging_rank import HANG_AFTER
from runs import CUT_RUN, SUPPORT, run_forked

from llama31.config import paths
from llama31.run_dir import hang
from llama31.run_dir.events import FAILED, TARGET_NOT_REACHED

pytestmark = pytest.mark.slow

MINUTES = 0.2  # long enough for a step, an evaluation and a checkpoint on a busy machine
STEPS, HANGS_AFTER = 4, 2


def test_a_run_that_hangs_ends_and_is_resumed(
    tiny_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        **tiny_data,
        **CUT_RUN,
        "GPUS_PER_NODE": 2,
        "STOP_AT_STEP": STEPS,
        "HANG_MINUTES": MINUTES,
        "SAVE_CKPT": 1,
        "SAVE_EVERY": HANGS_AFTER,
        "CONTINUAL_CKPT": tmp_path / "checkpoints",
        "JOB_DIR": tmp_path / "runs",
    }
    with monkeypatch.context() as patch:
        patch.setenv(HANG_AFTER, str(HANGS_AFTER))
        hung = run_forked(settings, script=SUPPORT / "hanging_rank.py")
    assert hung.exit_code == FAILED, hung.printed + hung.logs()
    waits, sleeps = hang.standings(hung.run_dir)
    assert (waits.rank, sleeps.rank) == (0, 1)
    assert {one.host for one in (waits, sleeps)} == {socket.gethostname()}
    assert {one.after for one in (waits, sleeps)} == {f"after step {HANGS_AFTER}"}
    assert sleeps.where.startswith("sleeping (tests/support/hanging_rank.py:")
    assert "/distributed/" in waits.where and ", called by " in waits.where, waits.where
    for one in (waits, sleeps):
        assert f"rank {one.rank} ({one.host}, CPU): {one.after}, in {one.where}" in hung.printed
        log = (hung.run_dir / paths.RANK_LOGS / f"rank-{one.rank}.log").read_text()
        assert f"no progress for {MINUTES:g} minutes after step {HANGS_AFTER}; all threads:" in log
        assert re.search(r"Thread 0x\w+ .*\(most recent call first\):\n  File", log)
    outcome = hung.outcome
    assert (outcome.exit_code, outcome.step) == (FAILED, HANGS_AFTER)
    assert outcome.reason.startswith(f"no progress for HANG_MINUTES={MINUTES:g}; rank ")
    stop = oracle.mlperf_events(hung.run_dir / paths.MLPERF_LOG)[-1]
    assert (stop["key"], stop["metadata"]["status"]) == ("run_stop", "aborted")

    resumed = run_forked(settings, script=SUPPORT / "hanging_rank.py")
    assert resumed.exit_code == TARGET_NOT_REACHED, resumed.printed + resumed.logs()
    assert [event["step"] for event in resumed.events("step")] == list(range(1, STEPS + 1))
    assert not hang.standings(resumed.run_dir)
