"""What a rank that makes no progress writes about itself, and what the launcher makes of the files of all ranks."""

import os
import subprocess
import sys
from pathlib import Path

from runs import REPOSITORY

from llama31.common.json_files import write_json
from llama31.config import paths
from llama31.run_dir import hang
from llama31.run_dir.events import FAILED
from llama31.run_dir.hang import Standing

WATCHED = """
import sys, time
from pathlib import Path
from llama31.run_dir import hang

run_dir = Path(sys.argv[1])
watch = hang.Watch(run_dir, 0.005, close=lambda outcome: print("closed:", outcome.reason), step=lambda: (7, 56))
watch.progress("step 7")
def wait_for_ever():
    time.sleep(1000)
wait_for_ever()
"""
PY_SPY = """#!/bin/sh
echo "py-spy got: $*"
"""


def test_a_rank_without_progress_writes_its_stacks_and_ends(tmp_path: Path) -> None:
    """py-spy is replaced by a program that prints its arguments."""
    (tmp_path / paths.RANK_LOGS).mkdir()
    script, tools = tmp_path / "watched.py", tmp_path / "tools"
    script.write_text(WATCHED)
    tools.mkdir()
    (tools / "py-spy").write_text(PY_SPY)
    (tools / "py-spy").chmod(0o755)
    search = f"{tools}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": search, "RANK": "0", "WORLD_SIZE": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, script, tmp_path], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == hang.EXIT_CODE, done.stderr
    assert "no progress for 0.005 minutes after step 7; all threads:" in done.stderr
    assert "in wait_for_ever" in done.stderr, "faulthandler's stacks"
    assert "py-spy got: dump --native --pid " in done.stderr
    (standing,) = hang.standings(tmp_path)
    assert (standing.after, standing.device) == ("after step 7", "CPU")
    assert standing.where.startswith("wait_for_ever (")
    outcome = hang.record.load_outcome(tmp_path)
    assert outcome and (outcome.exit_code, outcome.step, outcome.consumed_samples) == (FAILED, 7, 56)
    assert f"closed: {outcome.reason}" in done.stdout


def test_the_report_has_a_line_for_each_place(tmp_path: Path) -> None:
    """The smallest group is first; a damaged file is left out."""
    (tmp_path / paths.RANK_LOGS).mkdir()
    for rank in range(8):
        place = ("read", "step 11") if rank == 6 else ("all_reduce", "step 12")
        standing = Standing(rank, f"n{rank // 4}", f"GPU {rank % 4}", f"after {place[1]}", place[0])
        write_json(hang.file_of(tmp_path, rank), standing)
    hang.file_of(tmp_path, 2).write_text("{")
    assert hang.report(tmp_path) == [
        "rank 6 (n1, GPU 2): after step 11, in read",
        "ranks 0 (n0, GPU 0), 1 (n0, GPU 1), 3 (n0, GPU 3), 4 (n1, GPU 0) and 2 more: after step 12, in all_reduce",
    ]


def test_a_run_that_did_not_hang_has_no_report(tmp_path: Path) -> None:
    assert hang.report(tmp_path) == []
