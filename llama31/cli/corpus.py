"""Verbs that prepare the corpus, called by utils/*.sh. Each imports its modules when it is called."""

import os
from pathlib import Path
from typing import Annotated

import typer

from llama31 import rules
from llama31.cli.convert import BadLineLimit, OnBadLine
from llama31.common.errors import UserError

app = typer.Typer()
Jobs = Annotated[int | None, typer.Option(min=1, help="Files at a time; default: all cores.")]
Samples = Annotated[int, typer.Option(min=1, help="Documents of the validation set.")]


@app.command()
def compress(
    directory: Annotated[Path, typer.Argument(help="Directory with C4's .json files.")],
    jobs: Jobs = None,
) -> None:
    """Compress C4's .json files to .json.gz in place."""
    from llama31.common.parallel import cores
    from llama31.corpus import compress

    print(compress.compress(directory, jobs or cores()))


@app.command()
def consolidate(
    c4: Annotated[Path, typer.Argument(help="Directory with C4's .json.gz shards.")],
    merged: Annotated[Path, typer.Argument(help="Directory to write the merged files to.")],
    parts: Annotated[str, typer.Option(help="Parts to merge, 0 to 7, separated by spaces; may be empty.")],
    samples: Samples = rules.VALIDATION_DOCUMENTS,
    jobs: Jobs = None,
) -> None:
    """Merge C4's shards into one file per part. Also makes the customised validation set."""
    from llama31.common.parallel import cores
    from llama31.corpus import consolidate
    from llama31.corpus.parts import parse

    print(consolidate.consolidate(c4, merged, parse(parts), samples, jobs or cores()))


@app.command()
def preprocess(
    merged: Annotated[Path, typer.Argument(help="Directory with the merged .json.gz files.")],
    preprocessed: Annotated[Path, typer.Argument(help="Directory to write the token files to.")],
    tokenizer: Annotated[Path, typer.Option(help="Directory of the Hugging Face tokenizer.")],
    parts: Annotated[str, typer.Option(help="Training parts, 0 to 7, separated by spaces; may be empty.")],
    samples: Samples = rules.VALIDATION_DOCUMENTS,
    jobs: Annotated[int | None, typer.Option(min=1, help="Files at a time; default: one per 8 cores.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads per file; default: an equal share of the cores.")
    ] = None,
    share: Annotated[str, typer.Option(help="I/N: only the I-th of every N files, counted from 0.")] = "",
    shards: Annotated[Path | None, typer.Option(help="Directory of C4's shards, to tokenise them directly.")] = None,
    on_bad_line: OnBadLine = "stop",
    bad_line_limit: BadLineLimit = None,
    finish: Annotated[bool, typer.Option(help="Tokenise nothing; join shards and list missing files.")] = False,
) -> None:
    """Tokenise the benchmark's training parts and validation set."""
    from llama31.common.parallel import cores
    from llama31.corpus import preprocess
    from llama31.corpus.parts import parse
    from llama31.corpus.records import skip_limit

    limit = skip_limit(on_bad_line, bad_line_limit)
    work = preprocess.from_merged(merged, preprocessed, parse(parts), samples)
    if shards:
        work = preprocess.from_shards(work, shards, parse(parts), tokenizer, limit)
    tasks = preprocess.share_of(work.tasks, share)
    jobs = jobs or preprocess.default_jobs(tasks)
    if not finish:
        preprocess.tokenize_all(tasks, tokenizer, jobs, threads or max(1, cores() // jobs), limit)
    if not share:
        print(preprocess.finish(work, jobs))


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="PREFIX|DIR", help="Token file without .bin, or a directory.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="Tokenizer directory; default: TOKENIZER_PATH, if it exists.")
    ] = None,
    head: Annotated[int, typer.Option(min=0, help="Decode and show the first documents of each file.")] = 0,
) -> None:
    """Check token files from start to end. The exit code is 1 on any problem."""
    from llama31.corpus import verify_table

    named = os.environ.get("TOKENIZER_PATH", "")
    if tokenizer is None and named and (head or Path(named).is_dir()):
        tokenizer = Path(named)
    raise typer.Exit(verify_table.verify(path, tokenizer, head))


@app.command()
def download(
    what: Annotated[str, typer.Argument(help="preprocessed | tokenizer | raw | URL of a .uri file")],
    directory: Annotated[Path, typer.Argument(help="Directory to download to.")],
    parts: Annotated[
        str | None, typer.Option(help="raw: parts whose training shards to download; default: all.")
    ] = None,
    weights: Annotated[bool, typer.Option(help="tokenizer: also the weights, 16 GB.")] = False,
    rclone: Annotated[bool, typer.Option(help="From MLCommons' bucket, with rclone and access keys.")] = False,
    path: Annotated[str, typer.Option(help="rclone: bucket and directory.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Transfers at a time.")] = 8,
) -> None:
    """Download the benchmark's data and check it. Or another data set published by MLCommons."""
    from llama31.corpus.download import fetch, outcome, published
    from llama31.corpus.download.rclone import RemoteDirectory
    from llama31.corpus.download.remote import Remote
    from llama31.corpus.parts import PARTS, parse

    for option, is_given, owner in (("--parts", parts is not None, "raw"), ("--weights", weights, "tokenizer")):
        if is_given and what != owner:
            raise UserError(f"{option}: only for {owner}, not for {what}")
    if path and not rclone:
        raise UserError(f"--path={path}: only with --rclone")
    is_wanted = published.selection(what, range(PARTS) if parts is None else parse(parts), weights)
    remote: Remote = RemoteDirectory(path, what) if rclone else published.PublishedSet(published.address(what))
    print(fetch.download(remote, directory, is_wanted, jobs))
    for line in outcome.check(what, directory, os.environ):
        print(line)


@app.command()
def download_hf(
    directory: Annotated[Path, typer.Argument(help="Directory to download to.")],
    repository: Annotated[str, typer.Option(help="Repository at Hugging Face.")] = "meta-llama/Llama-3.1-8B",
    weights: Annotated[bool, typer.Option(help="Also the weights, 16 GB.")] = False,
) -> None:
    """Download Llama 3.1 8B's tokenizer from Hugging Face."""
    from llama31.corpus import download_hf as hugging_face

    print(hugging_face.download_hf(repository, directory, weights))
