"""Makes the corpus of dev.fuzz: fuzz_corpus.py DIRECTORY [TARGET...]. Each target gets a directory of small inputs."""

import json
import shutil
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import tiny
from packed_runs import describe
from report_logs import a_run_directory
from submissions import ten_runs, write_run

from dev.support.benchmark_run import SETTINGS
from llama31.common.files import sha256_of
from llama31.config import paths
from llama31.data import token_file, token_manifest
from llama31.data import tokenizer as tokenizer_files
from llama31.data.token_manifest import TokenManifest
from llama31.run_dir import job_chain, record, start_point
from llama31.run_dir.events import Outcome, Step
from llama31.run_dir.job_chain import Submission
from llama31.run_dir.metrics_file import MetricsWriter
from llama31.run_dir.start_point import Start


@cache
def data(directory: Path) -> dict[str, str]:
    """Tokenizer and token files with manifests, as small as they can be."""
    given = tiny.make_data(directory)
    tokenizer_hash = tokenizer_files.fingerprint(given["TOKENIZER_PATH"])
    for prefix in sorted(path.with_suffix("") for path in Path(given["PREPROCESSED_PATH"]).glob("*.bin")):
        file = token_file.summary(prefix)
        hashes = [sha256_of(path(prefix)) for path in (token_file.bin_path, token_file.idx_path)]
        ids = (tiny.VOCABULARY, False, None, file.token_type.name, file.documents, file.tokens, tiny.VOCABULARY - 1)
        made = TokenManifest(
            ["a.json.gz"], [1], ["0" * 64], "text", tokenizer_hash, *ids, *hashes, {"gigatoken": "0.10.0"}
        )
        token_manifest.write(prefix, made)
    return given


def small_run(directory: Path, seed: int = 1) -> Path:
    """A run of two evaluations with all files that a run directory can have."""
    run = write_run(directory, SETTINGS, seed=seed, evaluations=2)
    metrics = MetricsWriter(run / paths.METRICS)
    for step in range(1, 6):
        metrics.step_ended(Step(step, 32 * step, 9.0, 1e-4, 0.5))
    record.store_outcome(run, Outcome("success", "target reached", 0, 768, 24_576))
    start_point.store(run / paths.START, Start())
    return run


def logs(directory: Path) -> None:
    made = directory.parent / "made"
    for number in (1, 2):
        run = small_run(made / f"{directory.name}-{number}", number)
        (directory / str(number)).mkdir(parents=True)
        shutil.copyfile(run / paths.MLPERF_LOG, directory / str(number) / f"result_{number}.txt")
    resumed = a_run_directory(made / "resumed")
    (directory / "resumed").mkdir()
    shutil.copyfile(resumed / paths.MLPERF_LOG, directory / "resumed" / "result_0.txt")


def results(directory: Path) -> None:
    target = directory / "ten"
    target.mkdir(parents=True)
    for number, run in enumerate(ten_runs(directory.parent / "made" / "ten", evaluations=(3,) * 10)):
        shutil.copyfile(run / paths.MLPERF_LOG, target / f"result_{number}.txt")


def run_directory(directory: Path) -> None:
    small_run(directory / "local" / "run")
    submitted = small_run(directory / "submitted" / "run")
    shutil.copytree(submitted, submitted / "job-12")
    job_chain.store(submitted, Submission([12, 13], 1, "", "2026-01-01T00:00:00+00:00"))
    (submitted / ".job").write_text("12\n")


def token_files(directory: Path) -> None:
    data(directory / "one")


def index(directory: Path) -> None:
    from llama31.config.resolve import from_dict
    from llama31.data.index import Index, ensure

    given = data(directory / "one")
    settings = from_dict({**{name.lower(): value for name, value in given.items()}, "size": "tiny", "seq_length": 32})
    prefixes = paths.train_prefixes(settings)
    ensure(Index.of(directory / "one" / "index", prefixes, 32, 1, limit=settings.sample_limit))


def tokenizer(directory: Path) -> None:
    data(directory / "one")
    configuration = directory / "one" / "tokenizer" / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "chat_template": "{{ messages }}", "model_max_length": 9}
    shutil.copytree(directory / "one", directory / "code")
    configuration = directory / "code" / "tokenizer" / "tokenizer_config.json"
    configuration.write_text(json.dumps({**json.loads(configuration.read_text()), **own}))
    (configuration.parent / "own.py").write_text("open('executed', 'w').close()\nclass Own: pass\n")


def hugging_face(directory: Path) -> None:
    import llamas

    for number, kind in enumerate(("3.1", "3.2 tied, wide heads")):
        small = replace(llamas.KINDS[kind], config={**llamas.KINDS[kind].config, "num_hidden_layers": 2})
        llamas.make(small, directory / str(number))


def nemo(directory: Path) -> None:
    from llama31.checkpoint.convert import convert

    models = directory.parent / "made" / "models"
    hugging_face(models)
    directory.mkdir(parents=True, exist_ok=True)
    assert convert.convert(models / "0", directory / "0", "nemo") == 0


def checkpoints(directory: Path) -> None:
    import checkpoints as maker

    given = data(directory / "one")
    small = {"SIZE": "tiny", "DEVICE": "cpu", "SEQ_LENGTH": "32", "GBS": "8", "EVAL_SAMPLES": "16", "SEEDS": "7"}
    settings = {**given, **small, "JOB_DIR": "/nonexistent/runs"}
    for step in (8, 16):
        maker.save(settings, directory / "one" / "checkpoints", 0, step)


def system_description(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "one").mkdir()
    describe(directory / "one")


def package(directory: Path) -> None:
    (directory / "one").mkdir(parents=True)
    ten_runs(directory / "one", evaluations=(3,) * 10)
    describe(directory / "one")


MAKERS = {
    maker.__name__.replace("_", "-"): maker
    for maker in (
        logs, results, run_directory, token_files, index, tokenizer, hugging_face, nemo, checkpoints,
        system_description, package,
    )
}  # fmt: skip


if __name__ == "__main__":
    root = Path(sys.argv[1]).absolute()
    for name in sys.argv[2:] or MAKERS:
        shutil.rmtree(root / "made", ignore_errors=True)
        MAKERS[name](root / name)
    shutil.rmtree(root / "made", ignore_errors=True)
