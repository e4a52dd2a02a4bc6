"""A run on copies of its token files (COPY_DATA_TO)."""

from pathlib import Path
from typing import Any

import pytest
from runs import Run, run_forked

from llama31.data import node_copy
from llama31.run_dir.events import BAD_INPUT, TARGET_NOT_REACHED


@pytest.mark.slow
def test_a_run_on_copies_is_the_same_run(
    trained: tuple[Run, Path], settings_of_trained: dict[str, Any], tmp_path: Path
) -> None:
    copies = tmp_path / "it's $HOME" / "copies"
    given = {**settings_of_trained, "JOB_DIR": tmp_path / "runs", "STOP_AT_STEP": 8, "COPY_DATA_TO": copies}
    run = run_forked(given)
    assert run.exit_code == TARGET_NOT_REACHED, run.printed + run.logs()
    assert run.losses() == trained[0].losses()
    assert ": copied and verified " in run.printed
    assert f"each node copies the token files to COPY_DATA_TO={copies}, and reads them there\n" in run.printed
    (copies / node_copy.LOCK).unlink()
    (copies / node_copy.LOCK).mkdir()
    refused = run_forked(given)
    assert refused.exit_code == BAD_INPUT and f"{copies / node_copy.LOCK}: Is a directory" in refused.printed
