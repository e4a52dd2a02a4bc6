"""The demo's data, from nothing, by the commands of docs/data.md.

    python3 -m dev.prepare_demo DIRECTORY VALIDATION_DOCUMENTS

Makes DIRECTORY/{c4,merged,tokenizer,preprocessed}. Skips finished steps and resumes interrupted ones; data from other
package versions or from another version of the code is replaced. About 20 s and 30 MB on two cores.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from dev import demo_corpus, demo_tokenizer
from llama31 import rules
from llama31.common.errors import UserError
from llama31.common.files import atomic_writer, failures_named, sha256_of

REPOSITORY = Path(__file__).resolve().parents[1]
MADE_FROM = "made_from.json"  # in DIRECTORY: versions of the packages and the code that the data was made with
DIRECTORIES = ("c4", "merged", "tokenizer", "preprocessed")
PARTIAL = ".partial"  # appended to a directory's name while it is made

CLEARED = ("CONT_IMAGE_URL", "FROM_SHARDS", "JOBS", "SLURM_ARRAY_JOB_ID", "SLURM_JOB_ID")
"""Variables of the user's own preprocessing, cleared so that the commands run on this machine with defaults."""


def prepare(root: Path, validation_documents: int, packages: Sequence[str] = demo_corpus.PACKAGES) -> None:
    """Make the four directories. Raises UserError for a missing package, a full disk or a command that failed."""
    root = root.resolve()
    c4, merged, tokenizer, preprocessed = (root / name for name in DIRECTORIES)
    with failures_named(root):
        claim(root, packages)
        make(c4, lambda directory: demo_corpus.build(directory, packages))

        run({"C4_PATH": c4}, "bash", "utils/parallel_compress_json_to_gz.sh")

        wanted = {"PARTS": " ".join(map(str, rules.BENCHMARK_PARTS)), "N_VALIDATION_SAMPLES": validation_documents}
        run({"C4_PATH": c4, "MERGED_C4_PATH": merged, **wanted}, "bash", "utils/consolidate_data.sh")

        make(tokenizer, lambda directory: train_tokenizer(merged, directory))

        paths = {"TOKENIZER_PATH": tokenizer, "MERGED_C4_PATH": merged, "PREPROCESSED_PATH": preprocessed}
        run({**paths, **wanted}, "bash", "utils/preprocess.sh")

        run({}, sys.executable, "-m", "llama31", "verify", str(preprocessed), "--tokenizer", str(tokenizer))


def claim(root: Path, packages: Sequence[str]) -> None:
    """Record the current packages and code in MADE_FROM, after removing data that was made from others.

    Raises UserError if `root` has data but no MADE_FROM: it may not be ours.
    """
    made_from = {
        "packages": demo_corpus.package_versions(packages),
        "tokenizers": version("tokenizers"),
        **{Path(name).name: sha256_of(Path(name)) for name in (demo_corpus.__file__, demo_tokenizer.__file__)},
    }
    stamp = (json.dumps(made_from, indent=2) + "\n").encode()
    path = root / MADE_FROM
    if path.is_file():
        if path.read_bytes() == stamp:
            return
        print(f"{root}: was made from other packages or by other code; making it again")
        for name in DIRECTORIES:
            shutil.rmtree(root / name, ignore_errors=True)
            shutil.rmtree(root / (name + PARTIAL), ignore_errors=True)
    elif any((root / name).exists() for name in DIRECTORIES):
        raise UserError(f"{root}: has data but no {MADE_FROM}; remove it or choose another directory")
    with atomic_writer(path) as file:
        file.write(stamp)


def make(directory: Path, build: Callable[[Path], None]) -> None:
    """Make `directory` by `build`, under a temporary name until it is complete; skip it if it exists."""
    if directory.is_dir():
        print(f"{directory}: exists")
        return
    start = time.monotonic()
    partial = directory.with_name(directory.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    build(partial)
    partial.rename(directory)
    print(f"{directory}: made in {time.monotonic() - start:.1f} s")


def train_tokenizer(merged: Path, directory: Path) -> None:
    """Train the tokenizer on the merged training parts."""
    files = [merged / f"{rules.train_part_name(part)}.json.gz" for part in rules.BENCHMARK_PARTS]
    demo_tokenizer.save(demo_tokenizer.train(demo_tokenizer.texts(files)), directory)


def run(settings: Mapping[str, object], *command: str) -> None:
    """Show a command of docs/data.md, and run it. Raises UserError if it fails, after its own message."""
    given = {name: str(value) for name, value in settings.items()}
    shown = [*(f"{name}={shlex.quote(value)}" for name, value in given.items()), shlex.join(command)]
    print("$", " ".join(shown).replace(f"{REPOSITORY}/", "").replace(sys.executable, "python3"), flush=True)
    environment = {**os.environ, **dict.fromkeys(CLEARED, ""), "LLAMA31_VENV": sys.prefix, **given}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False)
    if done.returncode:
        raise UserError(f"{shlex.join(command)}: exit code {done.returncode}")


if __name__ == "__main__":
    try:
        prepare(Path(sys.argv[1]), int(sys.argv[2]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
