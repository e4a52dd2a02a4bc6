"""The MLPerf log, judged by MLCommons' own tools."""

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from checkout import REPOSITORY
from mlperf_logging.mllog import get_mllogger
from mlperf_logging.rcp_checker import rcp_checker

from dev.support import benchmark_run
from dev.support.benchmark_run import SAMPLES, SETTINGS, open_log, train, write_log
from llama31 import rules
from llama31.common.errors import UserError
from llama31.mlperf.check import one_log
from llama31.mlperf.log.writer import LowestPrecision, MLPerfLog, copy_to_resume
from llama31.run_dir.events import Outcome
from llama31.settings import Division, Settings, Status

INTERRUPTED = Outcome("aborted", "interrupted", 130, 5, 160)


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, which must all be MLLOG lines."""
    lines = path.read_text().splitlines()
    assert all(line.startswith(":::MLLOG ") for line in lines), f"only mllog may write to {path.name}: {lines}"
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]


def keys(path: Path) -> list[str]:
    return [record["key"] for record in records(path)]


def described(tmp_path: Path, settings: Settings, **more: Any) -> dict[str, Any]:
    """Key -> value of what the log says of such a run."""
    arguments = {"seed": 1, "data_parallel_size": 2, "train_samples": 5000, "departures": ()} | more
    log = MLPerfLog(tmp_path / "log")
    log.describe(settings, **arguments)
    log.describe_precision(LowestPrecision("nvfp4", "bfloat16", "fp8"))
    log.close()
    return {record["key"]: record["value"] for record in records(tmp_path / "log")}


@pytest.fixture(scope="module")
def full_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("run") / "mlperf.log")


@pytest.mark.parametrize("ruleset", rules.RULESETS)
def test_the_official_checker_accepts_a_full_size_run_as_closed(full_log: Path, tmp_path: Path, ruleset: str) -> None:
    command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--ruleset", ruleset, "--werror"]
    command += ["--log_output", str(tmp_path / "out"), str(full_log)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"make MLPerfLog write what ruleset {ruleset} wants:\n{done.stdout}{done.stderr}"


def test_the_reference_convergence_checker_reads_the_samples_to_converge(full_log: Path) -> None:
    # It looks for keys anywhere in a line, so other lines must not hold their names.
    read = rcp_checker.read_submission_file(full_log, "6.1.0", False)
    assert read == (0, SAMPLES, 32, rules.BENCHMARK), f"keep the names of keys out of other lines; rcp_checker: {read}"


def test_events_come_in_the_order_of_a_run(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log", validation_losses=[3.4, 3.2])
    found = keys(path)
    start = found.index("init_stop")
    evaluation = ["tracked_stats", "block_stop", "eval_start", "eval_accuracy", "eval_stop"]
    course = ["init_stop", "run_start", "block_start", *evaluation, "block_start", *evaluation, "run_stop"]
    assert found[:2] == ["cache_clear", "init_start"], "the log begins with the initialisation"
    assert found[start:] == course, "write the events in the order in which they happen"


def test_sample_counts_are_cumulative_and_exact(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log", validation_losses=[3.4, 3.2])
    counts = [(r["key"], r["metadata"]["samples_count"]) for r in records(path) if "samples_count" in r["metadata"]]
    first = [(key, 12288) for key in ("tracked_stats", "block_stop", "eval_start", "eval_accuracy", "eval_stop")]
    second = [(key, 24576) for key, _ in first]
    expected = [("block_start", 0), *first, ("block_start", 12288), *second, ("run_stop", 24576)]
    assert counts == expected, "count every training sequence since the run's start"


def test_throughput_is_that_of_the_block(full_log: Path) -> None:
    found = {record["value"]["throughput"] for record in records(full_log) if record["key"] == "tracked_stats"}
    assert found == {32 / benchmark_run.STEP_SECONDS}, "throughput is the block's sequences over its steps' seconds"


def test_the_log_says_what_the_settings_say(tmp_path: Path) -> None:
    settings = Settings(
        gbs=48, mbs=3, seq_length=4096, max_lr=4e-4, min_lr=1e-5, warmup_steps=7, max_steps=1000, eval_samples=96,
        target=4.2, tensor_parallel_size=2, pipeline_parallel_size=4, context_parallel_size=8,
        submission_org="Org", submission_platform="Box", submission_status=Status.cloud, config_filename="/a/b/c.sh",
    )  # fmt: skip
    found = described(tmp_path, settings, seed=42, data_parallel_size=2, train_samples=777, init_checkpoint_step=3)
    assert found == {
        "submission_benchmark": "llama31_8b", "submission_division": "closed", "submission_org": "Org",
        "submission_platform": "Box", "submission_status": "cloud", "seed": 42, "global_batch_size": 48,
        "micro_batch_size": 3, "gradient_accumulation_steps": 8, "max_sequence_length": 4096, "train_samples": 777,
        "eval_samples": 96, "init_checkpoint_step": 3, "opt_name": "adamw", "opt_base_learning_rate": 4e-4,
        "opt_end_learning_rate": 1e-5, "opt_learning_rate_warmup_steps": 7, "opt_learning_rate_decay_steps": 993,
        "opt_learning_rate_decay_schedule": "cosine with linear warmup", "opt_adamw_beta_1": 0.9,
        "opt_adamw_beta_2": 0.95, "opt_adamw_epsilon": 1e-5, "opt_adamw_weight_decay": 0.1,
        "opt_gradient_clip_norm": 1.0, "max_steps": 1000, "target_accuracy": 4.2,
        "lowest_numerical_precision_in_linear": "nvfp4", "lowest_numerical_precision_in_attn": "bfloat16",
        "lowest_numerical_precision_in_comm": "fp8", "tensor_parallelism": 2, "pipeline_parallelism": 4,
        "context_parallelism": 8, "expert_parallelism": 1, "config_filename": "c.sh",
    }, "MLPerfLog.describe must log each setting under its own key"  # fmt: skip


def test_defaults_that_are_computed_are_logged(tmp_path: Path) -> None:
    found = described(tmp_path, Settings())
    assert found["opt_end_learning_rate"] == 8e-5, "0.1 x MAX_LR"
    assert found["opt_learning_rate_warmup_steps"] == 512, "10% of 163,840 / 32 steps"
    assert found["opt_learning_rate_decay_steps"] == 1_200_000 - 512, "max_steps less the warmup"
    assert found["config_filename"] == "command line", "config_filename must not be empty"


def test_a_run_that_departs_is_open_and_says_where(tmp_path: Path) -> None:
    departures = ["SEQ_LENGTH=512: the closed division has 8192"]
    assert described(tmp_path, Settings(), departures=departures)["submission_division"] == "open"
    division = next(r for r in records(tmp_path / "log") if r["key"] == "submission_division")
    assert division["metadata"]["departures"] == departures, "the division's metadata lists the departures"


def test_a_run_may_be_open_without_departures(tmp_path: Path) -> None:
    found = described(tmp_path, Settings(submission_division=Division.open))
    assert found["submission_division"] == "open", "SUBMISSION_DIVISION=open is the user's choice"


def test_the_log_says_when_evaluations_are_due(tmp_path: Path) -> None:
    described(tmp_path, Settings(eval_every=640, start_eval_at=1280))
    samples = next(r for r in records(tmp_path / "log") if r["key"] == "eval_samples")
    due = {name: samples["metadata"][name] for name in ("eval_every", "start_eval_at")}
    assert due == {"eval_every": 640, "start_eval_at": 1280}, "check judges the cadence by this metadata"


@pytest.mark.parametrize("decay_norms", [True, False])
def test_the_log_says_whether_norms_decay(tmp_path: Path, decay_norms: bool) -> None:
    described(tmp_path, Settings(decay_norms=decay_norms))
    decay = next(r for r in records(tmp_path / "log") if r["key"] == "opt_adamw_weight_decay")
    assert decay["metadata"]["decay_norms"] is decay_norms


@pytest.mark.parametrize("cleared", [True, False])
def test_cache_clear_is_true_only_if_the_caches_were_cleared(tmp_path: Path, cleared: bool) -> None:
    log = MLPerfLog(tmp_path / "log")
    log.init_started(caches_cleared=cleared)
    log.close()
    assert records(tmp_path / "log")[0]["value"] is cleared


# Ends


def end_of(path: Path) -> tuple[list[str], dict[str, Any]]:
    """Keys of a log from run_start on, and the last line's metadata."""
    found = keys(path)
    return found[found.index("run_start") + 1 :], records(path)[-1]["metadata"]


def test_an_interrupted_run_ends_in_order(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    log.run_started(0)
    log.run_stopped(INTERRUPTED)
    course, end = end_of(tmp_path / "log")
    assert course == ["block_start", "block_stop", "run_stop"], "the open block ends before the run"
    said = {name: end[name] for name in ("status", "reason", "samples_count", "step")}
    assert said == {"status": "aborted", "reason": "interrupted", "samples_count": 160, "step": 5}


def test_a_run_interrupted_in_an_evaluation_ends_in_order(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    log.run_started(0)
    log.evaluation_started(5, 160)
    log.run_stopped(INTERRUPTED)
    course, _ = end_of(tmp_path / "log")
    expected = ["block_start", "block_stop", "eval_start", "eval_stop", "run_stop"]
    assert course == expected, "the open evaluation ends before the run, without a result"


def test_a_run_that_never_started_has_no_end(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    log.run_stopped(INTERRUPTED)
    found = keys(tmp_path / "log")
    assert not {"init_stop", "run_start", "run_stop"} & set(found), "log nothing that did not happen"
    assert str(tmp_path / "log") not in open_files(), "a run that ends closes its log"


def test_a_run_without_a_number_for_a_loss_is_logged_as_aborted(tmp_path: Path) -> None:
    outcome = Outcome("aborted", "the validation loss is nan at step 384", 3, 384, 12288)
    path = write_log(tmp_path / "log", validation_losses=[float("nan")], outcome=outcome)
    _, end = end_of(path)
    assert (end["status"], end["reason"]) == ("aborted", outcome.reason)


# The file


def open_files() -> list[str]:
    return [str(link.resolve()) for link in Path("/proc/self/fd").iterdir()]


def test_importing_opens_no_file(tmp_path: Path) -> None:
    repository = REPOSITORY
    code = f"import sys; sys.path.insert(0, {str(repository)!r}); import llama31.mlperf.log.writer"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == [], "open the log in MLPerfLog(), not at import"


def test_nothing_else_gets_into_the_log(tmp_path: Path) -> None:
    first, second = open_log(tmp_path / "first"), open_log(tmp_path / "second")
    before = (tmp_path / "second").read_text()
    first.run_started(0)
    logging.getLogger().warning("chatter")
    get_mllogger().event("seed", 0)
    assert (tmp_path / "second").read_text() == before, "a log contains only its own run's lines"
    records(tmp_path / "first")
    first.close()
    second.close()


def test_the_log_does_not_depend_on_the_state_of_logging(tmp_path: Path) -> None:
    handlers = list(logging.getLogger().handlers)
    path = write_log(tmp_path / "log", validation_losses=[3.2])
    assert logging.getLogger().handlers == handlers, "the root logger stays unchanged"
    assert keys(path)[-1] == "run_stop"


def test_each_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    log.run_started(0)
    assert keys(tmp_path / "log")[-1] == "block_start", "a killed run leaves every line that it logged"
    log.close()


def test_the_file_is_closed_when_the_run_stops(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    assert str(tmp_path / "log") in open_files(), "the test must see the open file"
    train(log, SETTINGS, [3.2])
    log.run_started(0)
    log.run_stopped(INTERRUPTED)
    log.close()
    assert str(tmp_path / "log") not in open_files(), "run_stopped closes the file"


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    write_log(tmp_path / "log", validation_losses=[3.2])
    before = (tmp_path / "log").read_text()
    open_log(tmp_path / "log").close()
    assert (tmp_path / "log").read_text().startswith(before), "never overwrite what a run has said"


def test_lines_name_their_source_without_the_machines_paths(full_log: Path) -> None:
    files = {record["metadata"]["file"] for record in records(full_log)}
    assert files == {"llama31/mlperf/log/writer.py"}, "paths in a published log are those of the repository"


def test_a_log_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no-such-dir.*cannot open the MLPerf log: No such file or directory"):
        MLPerfLog(tmp_path / "no-such-dir" / "mlperf.log")


def test_a_full_disk_is_one_line() -> None:
    log = MLPerfLog(Path("/dev/full"))
    with pytest.raises(UserError, match=r"/dev/full.*cannot write the MLPerf log: No space left on device"):
        log.init_started()
    log.close()


def test_a_value_that_cannot_be_logged_is_an_error_and_no_line(tmp_path: Path) -> None:
    log = MLPerfLog(tmp_path / "log")
    with pytest.raises(TypeError, match="not JSON serializable"):
        log.describe(Settings(), seed=object(), data_parallel_size=1, train_samples=1, departures=())  # type: ignore[arg-type]
    log.close()
    assert "seed" not in keys(tmp_path / "log"), "a line that cannot be written must not leave words behind"


# A run in several jobs


def in_two_jobs(directory: Path, departures: Sequence[str] = ()) -> Path:
    """The log of a full-size run whose first job was killed after a save, between two evaluations."""
    losses, step = benchmark_run.losses(), 5 * benchmark_run.interval(SETTINGS) + 9
    former = open_log(directory / "first.log")
    former.run_started(0)
    train(former, SETTINGS, losses[:5])
    former.close()
    copy_to_resume(directory / "first.log", directory / "second.log", departures)
    log = MLPerfLog(directory / "second.log", resumed=True)
    log.run_started(step * SETTINGS.gbs)
    train(log, SETTINGS, losses[5:], first=6)
    log.run_stopped(Outcome("success", "target reached", 0, SAMPLES // SETTINGS.gbs, SAMPLES))
    return directory / "second.log"


@pytest.mark.parametrize("ruleset", rules.RULESETS)
def test_two_jobs_write_one_log_that_holds_as_closed(tmp_path: Path, ruleset: str) -> None:
    report = one_log.check(in_two_jobs(tmp_path), ruleset)
    assert report.passes and report.is_closed and report.is_accepted, report.failures


def test_two_jobs_have_one_duration(tmp_path: Path) -> None:
    found = {record["key"]: record for record in records(in_two_jobs(tmp_path))}
    seconds = (found["run_stop"]["time_ms"] - found["run_start"]["time_ms"]) / 1000
    assert float(found["run_stop"]["metadata"]["duration"].removesuffix(" s")) == pytest.approx(seconds, abs=0.1)
    assert found["run_resumed"]["metadata"]["samples_count"] == (5 * 384 + 9) * 32


def test_a_departure_of_a_later_job_makes_the_run_open(tmp_path: Path) -> None:
    log = in_two_jobs(tmp_path, ["TARGET=4: the run has TARGET=3.3"])
    (division,) = (record for record in records(log) if record["key"] == "submission_division")
    assert division["value"] == "open"
    assert division["metadata"]["departures"] == ["TARGET=4: the run has TARGET=3.3"]
