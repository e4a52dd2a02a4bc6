"""PROFILE=torch on CPU ranks: a trace with the named ranges of the steps that were asked for."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runs import CUT_RUN, run_forked

from llama31.config import paths
from llama31.model.ranges import Ranges
from llama31.run_dir.events import TARGET_NOT_REACHED


def spans(trace: Path) -> list[dict[str, Any]]:
    """The named ranges of a trace, as Perfetto reads it."""
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    return [event for event in events if event.get("cat") == "user_annotation"]


@pytest.mark.slow
def test_the_trace_has_the_steps_and_their_parts(tmp_path: Path) -> None:
    run = run_forked({
        **CUT_RUN, "MOCK_DATA": 1, "JOB_DIR": tmp_path, "GPUS_PER_NODE": 2, "EVAL_EVERY": 16, "STOP_AT_STEP": 5,
        "PROFILE": "torch", "PROFILE_STEP_START": 2, "PROFILE_STEP_END": 3, "PROFILE_RANKS": "1",
    })  # fmt: skip
    assert run.exit_code == TARGET_NOT_REACHED, run.printed + run.logs()
    directory = run.run_dir / paths.PROFILE
    assert [file.name for file in directory.iterdir()] == ["rank-1.json.gz"]
    found = spans(directory / "rank-1.json.gz")
    counts = Counter(span["name"] for span in found)
    assert counts["step"] == 2, "steps 2 and 3"
    assert counts["evaluation"] == 1, "after step 2"
    micro_batches = 2  # GBS=8, MBS=2, 2 ranks
    assert counts["backward"] == 2 * micro_batches
    evaluated = counts["forward"] - 2 * micro_batches
    assert evaluated > 0, "the evaluation's forward passes"
    assert counts["data"] == counts["forward"]
    assert counts["optimizer"] >= 2
    steps = [span for span in found if span["name"] == "step"]
    for span in found:
        if span["name"] in ("backward", "optimizer"):
            assert any(step["ts"] <= span["ts"] <= step["ts"] + step["dur"] for step in steps), "within a step"


def test_a_range_that_is_closed_closes_those_within_it() -> None:
    ranges = Ranges()
    ranges.close("step")  # recording begins within a step
    ranges.is_on = True
    ranges.open("step")
    ranges("forward-compute").start()
    ranges.close("step")
    assert ranges._open == []
    ranges("forward-compute").stop()
    with ranges.within("data"):
        assert [name for name, _ in ranges._open] == ["data"]
    assert ranges._open == []
