"""A Python for jobs that runs no ranks, so that a job takes a second: it says what it was started for."""

from pathlib import Path
from typing import Any

PYTHON = """#!/usr/bin/env bash
# python3 [OPTIONS] -m llama31.launch.slurm.job begin|end JOB_DIR ..., or -m llama31.launch.slurm.rank JOB_DIR
while [[ $1 != -m ]]; do shift; done
printf '%s on %s with %s GPUs\\n' "$2" "$SLURMD_NODENAME" "${SLURM_GPUS_ON_NODE:-no}"
case "$2 ${3:-}" in
    "llama31.launch.slurm.job begin") touch "$4/start.json" ;;
    "llama31.launch.slurm.job end") exit "$5" ;;
    *) while [[ -e @HOLD@ ]]; do sleep 0.05; done ;;
esac
"""


def settings(code: Path, hold: Path) -> dict[str, Any]:
    """Settings of a run on two nodes that has this Python; the data is missing.

    Args:
        code: A directory to make.
        hold: Ranks do not end while this file is there.
    """
    (code / "llama31").mkdir(parents=True)
    python = code / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.replace("@HOLD@", str(hold)))
    python.chmod(0o755)
    size = {"SIZE": "tiny", "SEQ_LENGTH": 32, "GBS": 8, "EVAL_SAMPLES": 16, "SEEDS": 7}
    return {**size, "PARTITION": "debug", "NNODES": 2, "CODE_PATH": code}


def started(log: str) -> list[str]:
    """What a job started, and on which node, in its order; ranks by their nodes."""
    lines = [line.removeprefix("llama31.launch.slurm.").partition(" with ")[0] for line in log.splitlines()]
    ours = [line for line in lines if line.startswith(("job on ", "rank on "))]
    return [*ours[:1], *sorted(ours[1:-1]), *ours[-1:]]
