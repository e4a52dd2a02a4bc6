"""What is fuzzed: readers of files of others, each called as its users call it, on one directory of the corpus.

tests/support/fuzz_corpus.py makes the corpus. Modules are imported before an input is read, so that only the product's
own work is watched.
"""

import contextlib
import importlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llama31.cli import main as cli
from llama31.common.errors import UserError

MODELS = ("torch", "numpy", "safetensors", "safetensors.torch", "transformers", "llama31.checkpoint.weights_only")
CONVERT = ("llama31.checkpoint.convert.convert", "llama31.checkpoint.convert.logits_of_transformers")
RUNS = (
    "llama31.mlperf.check.submission", "llama31.report.command", "llama31.report.page", "llama31.report.runs",
    "llama31.status.status", "llama31.run_dir.summary", "llama31.launch.provenance",
)  # fmt: skip
DATA = ("llama31.launch.prepare", "llama31.cli.launch", "llama31.corpus.verify_table", "llama31.plan.plan", "gigatoken")
INDEX = ("llama31.cli.build_index", "megatron.core.datasets.gpt_dataset", "llama31.data.datasets")

TEXTS = ("The quick brown fox jumps over 13 lazy dogs.", "<|begin_of_text|> a\u00a0b\n\n  c", "")


class Wrong(Exception):
    """A verb ended in another way than the product promises."""


@dataclass(frozen=True)
class Target:
    """A kind of files: `read(directory, output)` reads a changed directory, and may write to `output`."""

    read: Callable[[Path, Path], None]
    preload: tuple[str, ...]

    def load(self) -> None:
        """Import what reading imports."""
        for module in self.preload:
            importlib.import_module(module)


def verb(*arguments: str | Path) -> None:
    """Call a verb as the command line does. Raises Wrong unless it succeeds, or fails as documented."""
    output, errors = io.StringIO(), io.StringIO()
    sys.argv = ["llama31", *map(str, arguments)]
    code: object = None
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
    printed = output.getvalue() + errors.getvalue()
    if code not in (None, 0, 1, 2, 3) or (code == 2 and not errors.getvalue().strip()):
        raise Wrong(f"{arguments[0]} ends with {code}: {printed[-300:]!r}")
    if "Traceback (most recent" in printed:
        raise Wrong(f"{arguments[0]} prints a traceback: {printed[-300:]!r}")
    if any(letter in printed for letter in "\x1b\x00"):
        raise Wrong(f"{arguments[0]} prints a control character of a file")


def call(*functions: Callable[[], object]) -> None:
    """Call functions that may raise UserError."""
    for function in functions:
        with contextlib.suppress(UserError):
            function()


def logs(directory: Path, output: Path) -> None:
    """MLPerf logs of others: check and report."""
    found = sorted(path for path in directory.iterdir() if path.is_file())
    verb("check", *found)
    verb("report", *found, "-o", output / "report.html")


def results(directory: Path, output: Path) -> None:
    """The results of a submission."""
    verb("check", directory)


def run_directory(directory: Path, output: Path) -> None:
    """A run directory of another user: settings.yaml, run.json, start.json, metrics, outcome, log."""
    verb("status", directory)
    for run in sorted(path for path in directory.iterdir() if path.is_dir()):
        verb("summary", run)
        verb("check", run)
        verb("report", run, "-o", output / "report.html")
        verb("plan", "--replay", run)


def token_files(directory: Path, output: Path) -> None:
    """Token files with index and manifest: the checks of a run, and `verify`."""
    verb("plan", *_small(directory, output))
    verb("verify", directory / "preprocessed", "--tokenizer", directory / "tokenizer", "--head", "1")


def index(directory: Path, output: Path) -> None:
    """The training index of another process; a damaged one is renamed and built again."""
    verb("index", *_small(directory, output), "SEEDS=1", f"TMP_NPY_INDEX={directory / 'index'}")


def tokenizer(directory: Path, output: Path) -> None:
    """A tokenizer directory: the plan, what a rank and the doctor load, and the encoder of `tokenize`."""
    from transformers import AutoTokenizer

    from llama31.corpus.fast_encoder import FastEncoder, Inexact
    from llama31.corpus.reference import TokenizerReference
    from llama31.data import run_tokenizer

    source = directory / "tokenizer"
    verb("plan", *_small(directory, output))

    def loaded() -> None:
        run_tokenizer.write(source, output / "copy")
        with run_tokenizer.loading(source):
            ours = AutoTokenizer.from_pretrained(output / "copy", trust_remote_code=False)
        run_tokenizer.check(ours, source)

    def encoded() -> None:
        texts = output / "texts.json"
        texts.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
        facts = TokenizerReference(source).facts(texts, "text", 0)
        with contextlib.suppress(Inexact):
            FastEncoder(source, lambda: facts)

    call(loaded, lambda: run_tokenizer.ignored_entries(source), encoded)


def hugging_face(directory: Path, output: Path) -> None:
    """A checkpoint of Hugging Face's format, up to the conversion itself."""
    from llama31.checkpoint.convert import reference_config
    from llama31.checkpoint.formats import hugging_face as formats

    def read() -> None:
        found = formats.inspect(directory)
        reference_config.of_hugging_face(directory)
        for name in found.tensors:
            found.tensor(name)

    call(read)


def nemo(directory: Path, output: Path) -> None:
    """A checkpoint of NeMo's format, up to the conversion itself, and as the start of a run."""
    from llama31.checkpoint.convert import reference_config
    from llama31.checkpoint.formats import nemo as formats
    from llama31.checkpoint.formats.parameter_mapping import is_layered
    from llama31.checkpoint.formats.safe_unpickle import read_table

    def read() -> None:
        found = formats.inspect(directory)
        reference_config.of_nemo(directory)
        for key in found.tensors:
            for layer in range(found.architecture.layers if is_layered(key) else 1):
                found.tensor(key, layer)

    call(read, lambda: read_table(directory / formats.WEIGHTS))


def checkpoints(directory: Path, output: Path) -> None:
    """Checkpoints that a run resumes: manifests and names."""
    saving = ("SAVE_CKPT=1", f"CONTINUAL_CKPT={directory / 'checkpoints'}")
    verb("plan", *_small(directory, output), *saving)
    for path in sorted((directory / "checkpoints").iterdir()):
        verb("plan", *_small(directory, output), "USE_CKPT=1", f"MODEL_CKPT={path}")


def system_description(directory: Path, output: Path) -> None:
    """A system description and the runs of a submission, up to where its tree is written."""
    from llama31.common.json_files import load_object
    from llama31.mlperf.package import system_description as descriptions

    for file in sorted(directory.glob("*.json")):

        def read(file: Path = file) -> None:
            content = load_object(file)
            if not list(descriptions.problems(file, content, ["Example"])):
                list(descriptions.notes(file, content))
                list(descriptions.disagreements(file, content, "8xH200", "Available on-premise"))

        call(read)


def package(directory: Path, output: Path) -> None:
    """Ten runs of a submission and its system description."""
    runs = sorted(path for path in directory.iterdir() if path.is_dir())
    verb("package", *runs, "--org=Example", f"--system={directory / '8xH200.json'}", "-o", output / "tree")


def _small(directory: Path, output: Path) -> list[str]:
    settings = {
        "PREPROCESSED_PATH": directory / "preprocessed", "TOKENIZER_PATH": directory / "tokenizer", "SIZE": "tiny",
        "DEVICE": "cpu", "SEQ_LENGTH": 32, "GBS": 8, "EVAL_SAMPLES": 16, "N_VALIDATION_SAMPLES": 40, "SEEDS": 7,
        "JOB_DIR": output / "runs",
    }  # fmt: skip
    return [f"{name}={value}" for name, value in settings.items()]


TARGETS = {
    "logs": Target(logs, RUNS),
    "results": Target(results, RUNS),
    "run-directory": Target(run_directory, (*RUNS, *DATA)),
    "token-files": Target(token_files, DATA),
    "index": Target(index, (*DATA, *INDEX)),
    "tokenizer": Target(tokenizer, (*DATA, "transformers", "llama31.corpus.tokenize", "llama31.data.run_tokenizer")),
    "hugging-face": Target(hugging_face, (*MODELS, *CONVERT)),
    "nemo": Target(nemo, (*MODELS, *CONVERT, "nemo.collections.llm", "torch.distributed.checkpoint")),
    "checkpoints": Target(checkpoints, DATA),
    "system-description": Target(system_description, ("llama31.mlperf.package.package",)),
    "package": Target(package, ("llama31.mlperf.package.package", *RUNS)),
}
