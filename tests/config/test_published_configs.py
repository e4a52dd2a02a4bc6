"""configs/published: batch and precision of published results, within the rules, and fit for their GPUs."""

import re
from pathlib import Path

import pytest
from runs import REPOSITORY, call, exports_after

from llama31 import rules
from llama31.config.departures import departures
from llama31.config.resolve import resolve
from llama31.estimates.gpus import key_of
from llama31.plan import validate
from llama31.report.published import published
from llama31.run_dir.events import BAD_INPUT
from llama31.settings import Settings

CONFIGS = sorted((REPOSITORY / "configs" / "published").iterdir())


@pytest.fixture(params=CONFIGS, ids=lambda path: path.name)
def config(request: pytest.FixtureRequest) -> Path:
    return request.param


def settings_of(config: Path) -> Settings:
    return resolve([], exports_after(f"source '{config.relative_to(REPOSITORY)}'")).settings


def test_it_has_the_published_batch_and_precision(config: Path) -> None:
    settings = settings_of(config)
    system = re.search(r"in MLPerf Training v6\.0 \((\S+)\)", config.read_text())
    assert system, "the first line names the system as MLCommons' results do"
    (row,) = [row for row in published() if (row.round, row.system) == ("v6.0", system[1])]
    assert settings.gpu == key_of(row.accelerator)
    assert settings.nnodes * settings.gpus_per_node == row.accelerators
    assert settings.gbs == row.gbs
    assert row.precision.startswith(settings.precision.name)


def test_the_name_says_what_it_is_for(config: Path) -> None:
    settings = settings_of(config)
    assert config.name == f"config_{settings.gpu}_{settings.nnodes}x{settings.gpus_per_node}.sh"
    assert settings.config_filename == str(config)


def test_it_fits_within_the_rules(config: Path, benchmark_data: dict[str, str], tmp_path: Path) -> None:
    settings = settings_of(config)
    assert departures(settings, rules.VALIDATION_TOKENS) == []
    assert settings.max_lr == rules.REFERENCE_POINTS[settings.gbs].learning_rate
    given = [f"{name}={value}" for name, value in {**benchmark_data, "JOB_DIR": tmp_path, "PARTITION": "p"}.items()]
    exported = exports_after(f"source '{config.relative_to(REPOSITORY)}'")
    assert validate.look(resolve(given, exported).settings)[1] == []


def test_a_dry_run_without_data_says_that_it_fits(config: Path, tmp_path: Path) -> None:
    partition = "p" if settings_of(config).nnodes > 1 else ""
    script = f"source '{config}'; bash run_llama31.sh --dryrun JOB_DIR='{tmp_path}' PARTITION={partition}"
    done = call("bash", "-c", script)
    assert done.returncode == BAD_INPUT, "the data is missing"
    needed, there = map(float, re.search(r"memory of a GPU: about ([0-9.]+) of (\d+) GB", done.stdout).groups())
    assert needed < there
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["PREPROCESSED_PATH", "TOKENIZER_PATH"]
