"""Which checkpoint a job starts from, and which settings must not change; without training."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from checkpoints import save, settings_of
from resume_choices import SEED, find, refused
from saved_tokenizers import change_ids, save_again

from llama31.checkpoint import identity, store
from llama31.common.errors import UserError
from llama31.common.files import sha256_of
from llama31.plan import validate
from llama31.run_dir import start_point
from llama31.run_dir.events import SUCCESS, Outcome
from llama31.settings import Fp8Recipe, Precision

# The choice


def test_nothing_there_is_a_first_job(saving: dict[str, str], usual: dict[str, str]) -> None:
    assert find(saving).start == find(usual).start == start_point.Start()


def test_the_newest_of_the_chain(saving: dict[str, str], root: Path) -> None:
    """A later job is newer, even if it restarted from an earlier step."""
    for job, step in ((1, 100), (1, 20), (2, 30)):
        save(saving, root, job, step)
    assert find(saving).start == start_point.Start(
        str(root / store.name(SEED, 2, 30)), job=3, step=30, consumed_samples=240
    )


def test_other_seeds_are_other_runs(saving: dict[str, str], root: Path) -> None:
    save({**saving, "SEEDS": "8"}, root, 1, 100)
    assert find(saving).start == start_point.Start()
    mine = save(saving, root, 1, 10)
    assert find(saving).start.checkpoint == str(mine)
    without_seed = {name: value for name, value in saving.items() if name != "SEEDS"}
    (line,) = refused(without_seed)
    assert "SEEDS is empty" in line and "7, 8" in line and "SEEDS=7 works" in line


def test_a_seed_left_open_is_the_runs(saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10)
    found = find({name: value for name, value in saving.items() if name != "SEEDS"})
    assert (found.settings.seeds, found.start.step) == (str(SEED), 10)


def test_layout_micro_batches_recomputation_and_overlap_are_free(saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10)
    more = ("GPUS_PER_NODE=4", "TENSOR_PARALLEL_SIZE=2", "PIPELINE_PARALLEL_SIZE=2", "MBS=2", "STOP_AT_STEP=3")
    assert find(saving, *more).start.step == 10
    more = ("GPUS_PER_NODE=2", "OVERLAP_GRAD_REDUCE=1", "RECOMPUTE_GRANULARITY=full", "RECOMPUTE_NUM_LAYERS=2")
    assert find(saving, *more).start.step == 10


def test_model_ckpt_starts_only_the_first_job(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    path = save(saving, tmp_path / "elsewhere", 3, 50)
    chosen = (f"MODEL_CKPT={path}", "USE_CKPT=1")
    assert find(saving, *chosen).start == start_point.Start(str(path), job=4, step=50, consumed_samples=400)
    newer = save(saving, root, 4, 60)
    assert find(saving, *chosen).start.checkpoint == str(newer)


def test_an_older_choice_than_the_newest_is_refused(saving: dict[str, str], root: Path) -> None:
    older, newer = save(saving, root, 1, 10), save(saving, root, 1, 20)
    (line,) = refused(saving, f"MODEL_CKPT={older}", "USE_CKPT=1")
    assert line.startswith(f"MODEL_CKPT={older}: ") and newer.name in line


def test_a_finished_run(saving: dict[str, str], root: Path) -> None:
    outcome = Outcome(SUCCESS, "reached", 0, 10, 80)
    save(saving, root, 1, 10, outcome=asdict(outcome))
    assert find(saving).outcome == outcome


def test_a_finished_run_cannot_change(saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10, outcome=asdict(Outcome(SUCCESS, "reached", 0, 10, 80)))
    (line,) = refused(saving, "TARGET=2.5", allowed=("target",))
    assert line.startswith("--allow-change: the run is finished")


def test_weights_that_a_run_did_not_begin_with(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    save(saving, root, 1, 10)
    (line,) = refused(saving, f"MODEL_CKPT={tmp_path}", "FROM_HF=1")
    assert line.startswith("FROM_HF=1: the run has FROM_HF=0, which cannot change")


# What must stay the same


@pytest.mark.parametrize(
    "change",
    ["GBS=16", "MAX_LR=1e-3", "MIN_LR=1e-6", "WARMUP_STEPS=3", "MAX_STEPS=99999", "SAMPLES_AVAILABLE=800",
     "SEQ_LENGTH=16", "TARGET=4", "EVAL_EVERY=999", "EVAL_SAMPLES=8", "START_EVAL_AT=64", "TRAIN_PARTS=6"],
)  # fmt: skip
def test_another_setting_than_the_runs(change: str, saving: dict[str, str], root: Path) -> None:
    given = {**saving, "WARMUP_STEPS": "5", "MIN_LR": "1e-5"}
    save(given, root, 1, 10)
    name = change.partition("=")[0]
    lines = refused(given, change)
    line = next(line for line in lines if line.startswith(f"{name}="))
    assert f"the run has {name}=" in line and f"--allow-change {name} resumes it anyway" in line
    allowed = {name, "PREPROCESSED_PATH"} if name == "TRAIN_PARTS" else {name}  # other files, too
    found = find(given, change, allowed=tuple(identity.parse_allowed(allowed)))
    assert found.start.step == 10
    assert f"changed by --allow-change {name} after step 10" in found.start.departures[0]


def test_another_seed_than_the_checkpoints(usual: dict[str, str], root: Path) -> None:
    path = save({**usual, "SEEDS": "1"}, root, 1, 10)
    chosen = (f"MODEL_CKPT={path}", "USE_CKPT=1")
    (line,) = refused(usual, *chosen, "SEEDS=2")
    assert line.startswith("SEEDS=2: the run has SEEDS=1;")
    assert find(usual, *chosen, "SEEDS=2", allowed=("seeds",)).settings.seeds == "2"
    assert find(usual, *chosen).settings.seeds == "1"


@pytest.mark.parametrize("change", ["SIZE=demo", "PRECISION=fp32", "GRAD_REDUCE_DTYPE=bf16", "DECAY_NORMS=1"])
def test_another_model_cannot_be_allowed(change: str, saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10)
    name = change.partition("=")[0]
    assert refused(saving, change)[0].startswith(f"{change}: the run has {name}=")
    with pytest.raises(UserError, match=f"--allow-change {name}: not one of "):
        identity.parse_allowed([name])


def test_a_checkpoint_that_does_not_say_whether_norms_decay(saving: dict[str, str], root: Path) -> None:
    """Checkpoints of older versions do not record this: their norms did not decay."""
    file = save(saving, root, 1, 10) / store.MANIFEST
    manifest = json.loads(file.read_text())
    del manifest["identity"]["decay_norms"]
    file.write_text(json.dumps(manifest))
    assert find(saving).start.step == 10
    (line,) = refused(saving, "DECAY_NORMS=1")
    assert line.startswith("DECAY_NORMS=1: the run has DECAY_NORMS=0, which cannot change")


def test_a_checkpoint_that_does_not_say_how_it_computes(saving: dict[str, str], root: Path) -> None:
    """Checkpoints of older versions record the precision only: gradients were in fp32."""
    file = save(saving, root, 1, 10) / store.MANIFEST
    manifest = json.loads(file.read_text())
    for name in ("grad_reduce_dtype", *identity.ARITHMETIC):
        del manifest["identity"][name]
    file.write_text(json.dumps(manifest))
    assert find(saving).start.step == 10
    assert refused(saving, "GRAD_REDUCE_DTYPE=bf16")[0].startswith("GRAD_REDUCE_DTYPE=bf16: the run has")


def test_another_fp8_recipe(saving: dict[str, str]) -> None:
    data = validate.check(settings_of(saving))
    fp8 = replace(settings_of(saving), precision=Precision.fp8)
    was, same = identity.identity(fp8, data), identity.identity(replace(fp8, fp8_param_gather=True), data)
    assert identity.changes(was, same, ())[1] == [], "what the default is, spelled out"
    other = identity.identity(replace(fp8, fp8_recipe=Fp8Recipe.tensorwise), data)
    assert identity.changes(was, other, ())[1][0] == (
        "FP8_RECIPE=tensorwise: the run has FP8_RECIPE=delayed, which cannot change"
    )


def test_another_tokenizer(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    save(saving, root, 1, 10)
    other = Path(shutil.copytree(saving["TOKENIZER_PATH"], tmp_path / "other tokenizer"))
    assert find(saving, f"TOKENIZER_PATH={other}").start.step == 10, "the same one elsewhere"
    assert find(saving, f"TOKENIZER_PATH={save_again(other)}").start.step == 10, "the same ids"
    change_ids(other)
    (line,) = refused(saving, f"TOKENIZER_PATH={other}")
    assert line.startswith("TOKENIZER_PATH: not the tokenizer that the run started with")


def test_a_checkpoint_with_the_hash_of_the_tokenizers_file(saving: dict[str, str], root: Path) -> None:
    """As they were written before: it is of the file as it was."""
    settings = settings_of(saving)
    tokenizer = Path(settings.tokenizer_path) / "tokenizer.json"
    was = {**identity.identity(settings, validate.check(settings)), "tokenizer_path": sha256_of(tokenizer)}
    save(saving, root, 1, 10, identity=was)
    assert find(saving).start.step == 10


def test_other_data(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    save(saving, root, 1, 10)
    other = Path(shutil.copytree(saving["PREPROCESSED_PATH"], tmp_path / "other data"))
    assert find(saving, f"PREPROCESSED_PATH={other}").start.step == 10, "the same data elsewhere"
    for extension in (".bin", ".idx"):
        shutil.copy(next(other.glob(f"*en_6*{extension}")), next(other.glob(f"*en_7*{extension}")))
    (line,) = refused(saving, f"PREPROCESSED_PATH={other}")
    assert line.startswith("PREPROCESSED_PATH: c4-train.en_7_text_document: not the data that the run started with")


def test_start_steps_must_be_the_checkpoints(saving: dict[str, str], root: Path) -> None:
    path = save(saving, root, 1, 10)
    chosen = (f"MODEL_CKPT={path}", "USE_CKPT=1")
    assert find(saving, *chosen, "START_STEPS=10").start.step == 10
    assert refused(saving, *chosen, "START_STEPS=9") == [f"START_STEPS=9: the checkpoint is of step 10 ({path})"]


def test_departures_of_earlier_jobs_stay(saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10, departures=["FROM_HF=1: the closed division starts from random weights"])
    assert find(saving).start.departures == ["FROM_HF=1: the closed division starts from random weights"]


# Weights only; see test_weights_only.py


def test_the_second_job_of_a_run_from_weights(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    from_weights = {**saving, "MODEL_CKPT": str(tmp_path), "FROM_HF": "1"}
    newer = save(from_weights, root, 1, 10)
    assert find(from_weights).start.checkpoint == str(newer)


def test_a_converted_checkpoint_has_no_run_to_resume(usual: dict[str, str], tmp_path: Path) -> None:
    (line,) = refused(usual, f"MODEL_CKPT={tmp_path}", "USE_CKPT=1")
    assert line.startswith(f"MODEL_CKPT={tmp_path}: ") and "FROM_HF=1 loads only the weights" in line
