"""configs/config_<GPU>_<nodes>x<gpus>.sh: within the rules, at a reference point, and fit for their GPU."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from runs import REPOSITORY, environment, exports_after

from llama31 import rules
from llama31.config.departures import departures
from llama31.config.resolve import resolve
from llama31.estimates.gpus import GB, GPUS
from llama31.plan import validate
from llama31.settings import Device, Settings

CONFIGS = sorted((REPOSITORY / "configs").glob("config_*x*.sh"))
SYSTEMS = ["config_B200_1x8.sh", "config_H100_4x8.sh", "config_H200_1x8.sh", "config_MI325X_1x8.sh"]


@pytest.fixture(params=CONFIGS, ids=lambda path: path.name)
def exported(request: pytest.FixtureRequest, benchmark_data: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """What a user has exported who sourced the file and named the data."""
    return {
        **exports_after(f"source {request.param.relative_to(REPOSITORY)}"),
        **benchmark_data,
        "JOB_DIR": str(tmp_path),
    }


@pytest.fixture
def settings(exported: dict[str, str]) -> Settings:
    return resolve([], exported).settings


def test_the_systems_are_there() -> None:
    assert [path.name for path in CONFIGS] == SYSTEMS


def test_the_name_says_what_it_is_for(settings: Settings) -> None:
    named = re.fullmatch(r"config_(\w+)_(\d+)x(\d+)\.sh", Path(settings.config_filename).name)
    assert named and named[1] in GPUS
    assert (settings.gpu, settings.nnodes, settings.gpus_per_node) == (named[1], int(named[2]), int(named[3]))
    assert settings.device is Device.cuda, "a plan can be made on a machine without a GPU"


def test_it_is_within_the_rules_at_a_reference_point(settings: Settings) -> None:
    """rules.REFERENCE_POINTS is the official checker's table of reference convergence points (test_rules.py)."""
    assert departures(settings, rules.VALIDATION_TOKENS) == []
    point = rules.REFERENCE_POINTS[settings.gbs]
    assert settings.max_lr == point.learning_rate
    assert settings.warmup * settings.gbs == point.warmup_samples


def test_the_configuration_is_valid(settings: Settings) -> None:
    """With several nodes, it also needs a PARTITION."""
    _, lines = validate.look(settings)
    needs_slurm = [f"NNODES={settings.nnodes}: needs PARTITION, for Slurm; NNODES=1 works"]
    assert lines == (needs_slurm if settings.nnodes > 1 else [])
    assert validate.look(replace(settings, partition="p"))[1] == []


def test_the_dry_run_shows_the_plan(exported: dict[str, str]) -> None:
    partition = "" if exported["NNODES"] == "1" else "p"
    done = subprocess.run(
        ["bash", "run_llama31.sh", "--dryrun", f"PARTITION={partition}"],
        cwd=REPOSITORY, env={**environment(), **exported}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    memory = GPUS[exported["GPU"]].memory // GB
    assert re.search(rf"(?m)^  memory of a GPU: about [0-9.]+ of {memory} GB: weights ", done.stdout)
    assert re.search(r"(?m) s a step, [0-9.]+ h to the reference's sample count$", done.stdout)
    assert bool(partition) == (f"\n#SBATCH --nodes={exported['NNODES']}\n" in done.stdout)
